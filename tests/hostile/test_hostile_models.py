"""Models and tables that were made to run code: none is loaded."""

import io
import os
import pickle
import re
import shutil
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import saved_model_pb2

from model_code.images import backbones, weights
from model_code.runtime import saved_models
from model_code.runtime.settings import EmbeddingSettings
from schemas.base.errors import PhraseLensError
from schemas.datasets import integrity
from schemas.datasets.dataset import Dataset
from schemas.runs.run import Run
from schemas.tables.arrays import load_array
from transforms.inference import embed_images as features
from transforms.inference import folders as models
from transforms.inference.folders import ModelFolder

ROOT = Path(__file__).resolve().parent.parent.parent
PRODUCT = ("beam_jobs", "transforms", "model_code", "schemas", "samples")
# Each runs what a file says, or allows it.
UNSAFE = re.compile(
    r"\bpickle\.loads?\b|\bimport (pickle|dill|cloudpickle|marshal|shelve|joblib)\b"
    r"|allow_pickle\s*=\s*True|safe_mode\s*=\s*False|enable_unsafe_deserialization"
    r"|(?<![.\w])(eval|exec)\(|yaml\.(unsafe_)?load\(|shell\s*=\s*True|os\.system\("
    r"|\bnp\.load\(|\btf\.saved_model\.load\(|keras\.models\.load_model\("
)
READERS = {
    "schemas/tables/arrays.py": "np.load(",
    "model_code/runtime/saved_models.py": "tf.saved_model.load(",
}


@pytest.mark.parametrize("package", PRODUCT)
def test_nothing_runs_what_a_file_says(package):
    found = {
        (str(path.relative_to(ROOT)), match.group())
        for path in (ROOT / package).rglob("*.py")
        for match in UNSAFE.finditer(path.read_text())
    }
    assert found == {item for item in READERS.items() if item[0].startswith(package)}


@pytest.mark.parametrize(
    "line",
    [
        *("x = pickle.load(f)", "import pickle", "np.load(p, allow_pickle=True)", "eval(text)"),
        *("keras.saving.load_model(p, safe_mode=False)", "yaml.load(f)", "np.load(path)"),
        *("tf.saved_model.load(path)", "run(x, shell=True)"),
    ],
)
def test_the_search_finds(line):
    assert UNSAFE.search(line)


class _Trap:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, path: str):
        self._path = path

    def __reduce__(self):
        return os.mkdir, (self._path,)


@pytest.mark.parametrize("kind", ["npy", "npz", "pickle", "empty", "cut", "text"])
def test_an_array_of_objects_is_refused(tmp_path, kind):
    trap, path = str(tmp_path / "sprung"), tmp_path / "query_vectors.npy"
    buffer = io.BytesIO()
    if kind == "npy":
        np.save(buffer, np.array([_Trap(trap)], object))
    elif kind == "npz":
        np.savez(buffer, a=np.array([_Trap(trap)], object))
    elif kind == "pickle":
        pickle.dump(_Trap(trap), buffer)
    elif kind == "cut":
        np.save(buffer, np.zeros(99))
        buffer.truncate(200)
    elif kind == "text":
        buffer.write(b"\x93NUMPY\x01\x00\x40\x00{'descr': __import__('os').mkdir('x')}")
    path.write_bytes(buffer.getvalue())
    for mode in (None, "r"):
        with pytest.raises(PhraseLensError, match="one array of numbers"):
            load_array(str(path), mode)
    assert not os.path.exists(trap)
    with pytest.raises(FileNotFoundError):
        load_array(str(tmp_path / "none.npy"))


def lambda_model(trap: str) -> keras.Model:
    inputs = keras.Input((32, 32, 3))

    def spring(x, path=trap):
        import os

        os.mkdir(path)
        return x

    layer = keras.layers.Lambda(spring, output_shape=(32, 32, 3))
    return keras.Model(inputs, layer(inputs))


def test_a_network_with_code_is_refused(tmp_path):
    """As weights, which anybody may give, and as a model of a stage."""
    trap, path = str(tmp_path / "sprung"), str(tmp_path / "weights.keras")
    lambda_model(trap).save(path)
    shutil.rmtree(trap, ignore_errors=True)  # building it ran it
    with pytest.raises(PhraseLensError, match="without code of its own"):
        weights.load(path)
    with pytest.raises(PhraseLensError, match="without code of its own"):
        weights.pretrained("small_resnet", 32, path, "--weights")
    assert not os.path.exists(trap)


@pytest.mark.parametrize("module", ["os", "keras.utils", "builtins"])
def test_a_network_that_names_a_function_is_refused(tmp_path, module):
    path = str(tmp_path / "m.keras")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")])
    model.save(path)
    text = {"os": "system", "keras.utils": "get_file", "builtins": "eval"}[module]
    _rewrite(path, b'"class_name": "Dense"', f'"class_name": "{text}"'.encode())
    _rewrite(path, b'"module": "keras.layers", "class_name"', f'"module": "{module}"'.encode())
    with pytest.raises(PhraseLensError, match="layers that Keras has"):
        weights.load(path)


def _rewrite(path: str, old: bytes, new: bytes) -> None:
    import zipfile

    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    if b'"class_name"' in old and b'"module"' in old:
        new += b', "class_name"'
    parts["config.json"] = parts["config.json"].replace(old, new)
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)


@pytest.mark.parametrize("kind", ["external data", "external link"])
def test_weights_that_point_to_other_files_are_refused(tmp_path, kind):
    secret, path = tmp_path / "secret", str(tmp_path / "w.weights.h5")
    secret.write_bytes(np.arange(1 << 16, dtype=np.float32).tobytes())
    backbones.build("small_resnet", 32, 16).save_weights(path)
    with h5py.File(str(tmp_path / "other.h5"), "w") as other:
        other["x"] = np.zeros(3, np.float32)
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        shape = file[names[0]].shape
        del file[names[0]]
        if kind == "external link":
            file[names[0]] = h5py.ExternalLink(str(tmp_path / "other.h5"), "x")
        else:
            size = int(np.prod(shape)) * 4
            file.create_dataset(names[0], shape, "f4", external=[(str(secret), 0, size)])
    with pytest.raises(PhraseLensError, match="weights of small_resnet"):
        weights.pretrained("small_resnet", 32, path, "--weights")


class _Calls(tf.Module):
    """A model that calls a function of the tests."""

    def __init__(self, call, spec):
        super().__init__()
        self.call = tf.function(call, input_signature=[spec])


FLOATS = tf.TensorSpec([None], tf.float32)
TEXT = tf.TensorSpec([], tf.string)


def export(folder: Path, call, spec=FLOATS, **parts) -> str:
    module = _Calls(call, spec)
    for name, part in parts.items():
        setattr(module, name, part)
    tf.saved_model.save(module, str(folder), {"serving_default": module.call})
    return str(folder)


def edit(folder: str, change) -> None:
    """Changes the graph of a SavedModel as no library would."""
    path = Path(folder, "saved_model.pb")
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    change(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())


def _in_a_branch(x):
    return tf.cond(x[0] > 0, lambda: tf.size(tf.io.read_file("/etc/hostname")), lambda: 0)


def _in_a_loop(x):
    return tf.while_loop(
        lambda i: i < 2, lambda i: i + tf.strings.length(tf.io.read_file("/etc/hostname")), [0]
    )


def _restore(x):
    read = tf.raw_ops.RestoreV2(
        prefix="/other/model/variables", tensor_names=["a"], shape_and_slices=[""], dtypes=["float"]
    )
    return x + read[0]


def _save(x):
    tf.raw_ops.SaveV2(
        prefix="/elsewhere/stolen", tensor_names=["a"], shape_and_slices=[""], tensors=[x]
    )
    return x


def _write(x):
    tf.io.write_file("/elsewhere/written", tf.as_string(x[0]))
    return x


def _map_memory(x):
    return x + tf.raw_ops.ImmutableConst(
        dtype=tf.float32, shape=[1], memory_region_name="/dev/shm/secret"
    )


def _table_of(path):
    table = tf.raw_ops.HashTableV2(key_dtype=tf.string, value_dtype=tf.int64)
    tf.raw_ops.InitializeTableFromTextFileV2(
        table_handle=table, filename=path, key_index=-2, value_index=-1
    )
    return tf.raw_ops.LookupTableSizeV2(table_handle=table)


def _print(x):
    tf.print(x, output_stream="file:///elsewhere/printed")
    return x


def _debug(x):
    return tf.raw_ops.DebugIdentityV2(input=x, debug_urls=["file:///elsewhere"])


def _proto(x):
    read = tf.io.decode_proto(tf.as_string(x), "some.Message", ["a"], [tf.int64], "/etc/some.pb")
    return read.sizes


def _dataset(x):
    return x + tf.data.TextLineDataset("/etc/passwd").reduce(0.0, lambda n, _: n + 1.0)


REACHING = {
    "a branch": (_in_a_branch, FLOATS, "ReadFile"),
    "a loop": (_in_a_loop, FLOATS, "ReadFile"),
    "a path that the caller gives": (tf.io.read_file, TEXT, "ReadFile"),
    "a pattern": (tf.io.matching_files, TEXT, "MatchingFiles"),
    "a written file": (_write, FLOATS, "WriteFile"),
    "another model's variables": (_restore, FLOATS, "RestoreV2"),
    "variables to another place": (_save, FLOATS, "SaveV2"),
    "memory of another process": (_map_memory, FLOATS, "ImmutableConst"),
    "a table of a path": (_table_of, TEXT, "InitializeTableFromTextFileV2"),
    "printing to a file": (_print, FLOATS, "PrintV2"),
    "debugging": (_debug, FLOATS, "DebugIdentityV2"),
    "a descriptor": (_proto, FLOATS, "DecodeProtoV2"),
    "lines of a file": (_dataset, FLOATS, "TextLineDataset"),
    "Python": (lambda x: tf.py_function(abs, [x], tf.float32), FLOATS, "EagerPyFunc"),
    "NumPy": (lambda x: tf.numpy_function(abs, [x], tf.float32, False), FLOATS, "PyFuncStateless"),
}


@pytest.mark.parametrize("kind", REACHING)
def test_a_graph_that_reaches_outside_is_refused(tmp_path, kind):
    call, spec, operation = REACHING[kind]
    folder = export(tmp_path / "model", call, spec)
    with pytest.raises(PhraseLensError, match=operation) as error:
        saved_models.load(folder)
    assert error.value.item == f"{folder}/saved_model.pb"
    assert "Take these operations out" in error.value.remedy


def _rename(graph) -> None:
    """Gives a function the name of an operation."""
    function = graph.graph_def.library.function.add()
    function.signature.name = "AddV2"


def _call_the_saver(graph) -> None:
    """An object offers the function that restores variables, from where its caller says."""
    name = next(
        f.signature.name
        for f in graph.graph_def.library.function
        if any(node.op == "RestoreV2" for node in f.node_def)
    )
    graph.object_graph_def.concrete_functions[name].SetInParent()


def _swap_the_saver(graph) -> None:
    """The function that saves variables claims to do what another does, only faster."""
    function = next(
        f
        for f in graph.graph_def.library.function
        if any(node.op == "SaveV2" for node in f.node_def)
    )
    function.attr["api_implements"].s = b"compute"


def _free_the_vocabulary(graph) -> None:
    """The file of a vocabulary is not bound any more: who calls it gives it."""
    for concrete in graph.object_graph_def.concrete_functions.values():
        del concrete.bound_inputs[:]


def _unknown(graph) -> None:
    graph.graph_def.node.add(name="n", op="OfAStrangersLibrary")


EDITED = {
    "a function named as an operation": (_rename, "AddV2"),
    "an object that restores": (_call_the_saver, "RestoreV2"),
    "a function swapped for the saver": (_swap_the_saver, "SaveV2"),
    "a vocabulary of any path": (_free_the_vocabulary, "InitializeTableFromTextFileV2"),
    "an unknown operation": (_unknown, "OfAStrangersLibrary"),
    "an asset outside": (
        lambda graph: setattr(graph.asset_file_def[0], "filename", "../../words.txt"),
        r"the asset '\.\./\.\./words\.txt'",
    ),
    "an asset at an absolute path": (
        lambda graph: setattr(graph.asset_file_def[0], "filename", "/etc/passwd"),
        "/etc/passwd",
    ),
    "no objects": (lambda graph: graph.ClearField("object_graph_def"), "TensorFlow 2"),
}


@pytest.fixture(scope="module")
def with_vocabulary(tmp_path_factory) -> str:
    """A model with a variable and a vocabulary in a file of its own."""
    root = tmp_path_factory.mktemp("vocabulary")
    (root / "words.txt").write_text("red\nblue\n")
    file = tf.lookup.TextFileInitializer(
        str(root / "words.txt"), tf.string, -2, tf.int64, -1, delimiter=" "
    )
    table, shift = tf.lookup.StaticHashTable(file, -1), tf.Variable(10, dtype=tf.int64)
    parts = {"table": table, "shift": shift}
    return export(root / "model", lambda text: table.lookup(text) + shift, TEXT, **parts)


@pytest.mark.parametrize("kind", EDITED)
def test_a_graph_that_was_edited_to_reach_outside_is_refused(tmp_path, with_vocabulary, kind):
    change, message = EDITED[kind]
    folder = str(tmp_path / "model")
    shutil.copytree(with_vocabulary, folder)
    saved_models.check(folder)
    edit(folder, change)
    with pytest.raises(PhraseLensError, match=message):
        saved_models.load(folder)


def test_a_linked_vocabulary_is_refused(tmp_path, with_vocabulary):
    folder = tmp_path / "model"
    shutil.copytree(with_vocabulary, folder)
    (folder / "assets" / "words.txt").unlink()
    (folder / "assets" / "words.txt").symlink_to("/etc/passwd")
    with pytest.raises(PhraseLensError, match=r"the asset 'words\.txt'"):
        saved_models.load(str(folder))


def test_a_model_with_variables_and_a_vocabulary_of_its_own_is_loaded(with_vocabulary, tmp_path):
    for folder in (with_vocabulary, shutil.copytree(with_vocabulary, tmp_path / "moved")):
        found = saved_models.load(str(folder)).signatures["serving_default"]
        assert found(tf.constant("blue"))["output_0"].numpy() == 11
    loaded = saved_models.load(with_vocabulary)
    tf.saved_model.save(loaded, str(tmp_path / "again"), loaded.signatures)
    saved_models.check(str(tmp_path / "again"))


def _vision_transformer() -> keras.Model:
    images = keras.Input((16, 16, 3))
    x = keras.layers.Rescaling(1 / 255)(images)
    x = keras.layers.Reshape((16, 8))(keras.layers.Conv2D(8, 4, 4)(x))
    x = keras.layers.LayerNormalization()(x)
    x = x + keras.layers.MultiHeadAttention(2, 4)(x, x)
    x = x + keras.layers.EinsumDense("abc,cd->abd", (None, 8))(x)
    x = keras.layers.GroupNormalization(2)(x)
    x = keras.activations.gelu(keras.layers.UnitNormalization()(x))
    return keras.Model(images, keras.layers.Dense(3, "softmax")(x[:, 0]))


def _preprocessing() -> keras.Model:
    images = keras.Input((None, None, 3))
    x = keras.layers.Resizing(24, 24, "bicubic", antialias=True)(images)
    for layer in (
        *(keras.layers.RandomFlip(), keras.layers.RandomRotation(0.1)),
        *(keras.layers.RandomZoom(0.1), keras.layers.RandomContrast(0.1)),
        *(keras.layers.RandomBrightness(0.1), keras.layers.RandomTranslation(0.1, 0.1)),
        *(keras.layers.CenterCrop(16, 16), keras.layers.Normalization(mean=1, variance=2)),
    ):
        x = layer(x)
    return keras.Model(images, keras.layers.GlobalMaxPooling2D()(x))


def _texts() -> keras.Model:
    texts = keras.Input((), dtype="string")
    words = keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="int")(texts)
    x = keras.layers.Embedding(4, 3)(words)[:, None]
    return keras.Model(texts, keras.layers.Bidirectional(keras.layers.LSTM(2))(x))


def _convolutions() -> keras.Model:
    images = keras.Input((16, 16, 3))
    x = keras.layers.SeparableConv2D(4, 3, strides=2)(images)
    x = keras.layers.ReLU(6.0)(keras.layers.BatchNormalization()(x))
    x = keras.layers.Conv2DTranspose(4, 3, activation="hard_silu")(x)
    x = keras.layers.Dropout(0.2)(keras.layers.MaxPooling2D()(keras.layers.UpSampling2D()(x)))
    return keras.Model(
        images, keras.layers.GlobalAveragePooling2D()(keras.layers.UpSampling2D()(x))
    )


def _application(name: str, side: int = 32, **options) -> keras.Model:
    return getattr(keras.applications, name)(
        weights=None, input_shape=(side, side, 3), classes=3, **options
    )


def _hub(folder: str) -> None:
    """In the manner of TensorFlow Hub: `__call__` with training or without, bytes of images in."""

    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.kernel = tf.Variable(tf.ones([3, 3, 3, 4]))
            self.average = tf.Variable(tf.zeros([4]))
            keys, values = tf.constant(["cat", "dog"]), tf.constant([0, 1], tf.int64)
            self.names = tf.lookup.StaticHashTable(
                tf.lookup.KeyValueTensorInitializer(values, keys), "none"
            )

        @tf.function(input_signature=[tf.TensorSpec([None, 16, 16, 3]), tf.TensorSpec([], tf.bool)])
        def __call__(self, images, training):
            x = tf.nn.conv2d(images, self.kernel, 2, "SAME")
            x = tf.quantization.fake_quant_with_min_max_args(x)
            mean = tf.reduce_mean(x, [0, 1, 2])
            if training:
                self.average.assign(0.9 * self.average + 0.1 * mean)
                x = tf.nn.dropout(x, 0.2)
            return tf.reduce_mean(x - self.average, [1, 2])

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def detect(self, files):
            def read(file):
                image = tf.io.decode_image(file, expand_animations=False)
                return tf.image.resize(tf.image.adjust_saturation(image, 0.5), [16, 16])

            images = tf.map_fn(read, files, fn_output_signature=tf.TensorSpec([16, 16, 3]))
            scores = self(images, False)
            boxes = tf.random.uniform([4, 4])
            kept = tf.image.combined_non_max_suppression(
                boxes[None, :, None], scores[:1, :, None], 2, 2
            )
            alone = tf.image.non_max_suppression(boxes, scores[0], 2)
            crops = tf.image.crop_and_resize(images[:1], boxes[:1], [0], [8, 8])
            states = tf.TensorArray(tf.float32, 0, dynamic_size=True).write(0, crops)
            parsed = tf.io.parse_example(files[:0], {"x": tf.io.FixedLenFeature([], tf.float32)})
            return {
                "names": self.names.lookup(tf.argmax(scores, 1)),
                "sums": tf.einsum("bd,bd->b", scores, scores),
                "kept": kept.nmsed_boxes,
                "alone": alone,
                "states": states.stack(),
                "parsed": parsed["x"],
                "jpeg": tf.io.encode_jpeg(tf.cast(images[0], tf.uint8)),
            }

    model = Model()
    tf.saved_model.save(model, folder, {"serving_default": model.detect})


def _quantised(folder: str) -> None:
    def call(x):
        x, low, high = tf.quantization.quantize(x, -1.0, 1.0, tf.quint8)
        x, low, high = tf.raw_ops.QuantizedRelu(features=x, min_features=low, max_features=high)
        return tf.quantization.quantize_and_dequantize_v2(
            tf.quantization.dequantize(x, low, high), 0.0, 1.0
        )

    export(Path(folder), call)


NETWORKS = {
    "convolutions": lambda folder: _convolutions().export(folder, verbose=False),
    "vision transformer": lambda folder: _vision_transformer().export(folder, verbose=False),
    "preprocessing": lambda folder: _preprocessing().export(folder, verbose=False),
    "texts": lambda folder: _texts().export(folder, verbose=False),
    "with an optimizer": lambda folder: tf.saved_model.save(_vision_transformer(), folder),
    "TensorFlow Hub": _hub,
    "quantised": _quantised,
    **{
        name: pytest.param(
            lambda folder, name=name: _application(name).export(folder, verbose=False),
            marks=pytest.mark.slow,
        )
        for name in ("MobileNet", "MobileNetV3Small", "ResNet50", "EfficientNetV2B0")
    },
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_networks_that_people_use_are_loaded(tmp_path, make):
    make(str(tmp_path / "model"))
    saved_models.load(str(tmp_path / "model"))


def _registered() -> list:
    """All operations that this TensorFlow knows."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    listed = pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList())
    return list(op_def_pb2.OpList.FromString(listed).op)


# In the names of what operations are given, where that is a file, an address, or code.
PLACES = re.compile(r"file|path|directory|url|addr|prefix|basename|dataset|descriptor|region|spec$")
OUTSIDE = re.compile(
    r"Dataset|Iterator|Reader|Summary|Debug|Py|Rpc|Send|Recv|Collective|Session|Custom"
    r"|Save|Restore|Checkpoint|File|TPU|Infeed|Outfeed|Print|Abort|Queue|Remote|Mlir|CallModule"
)
HARMLESS = {"DebugGradientIdentity", "DebugGradientRefIdentity", "DebugNumericSummaryV2"}
HARMLESS |= {"BoostedTreesMakeStatsSummary"}


def test_no_operation_that_is_given_a_place_is_allowed():
    operations = _registered()
    allowed = {op.name for op in operations if saved_models.is_allowed(op.name)}
    given = {
        op.name: [
            a.name
            for a in (*op.input_arg, *op.attr)
            if getattr(a, "type", "") in (types_pb2.DT_STRING, "string", "list(string)")
        ]
        for op in operations
    }
    with_place = {name for name, names in given.items() if any(map(PLACES.search, names))}
    assert {"ReadFile", "SaveV2", "ImmutableConst", "DebugIdentityV3"} < with_place
    assert with_place & allowed == set()
    outside = {op.name for op in operations if OUTSIDE.search(op.name)}
    assert outside & allowed <= HARMLESS | {op for op in outside if op.startswith("TPU")}
    assert len(outside) > 300
    assert 700 < len(allowed) < 1200


def test_every_operation_that_is_named_exists():
    """A name with a slip would allow what somebody registers under it one day."""
    assert saved_models._NAMED.issubset(op.name for op in _registered())
    assert not saved_models.is_allowed("ThereIsNone")


def test_a_network_that_loads_a_graph_from_elsewhere_is_refused(tmp_path):
    folder = export(tmp_path / "model", lambda x: x + 1)
    inputs = keras.Input((), dtype="float32")
    layer = keras.layers.TFSMLayer(folder, call_endpoint="serving_default")
    keras.Model(inputs, layer(inputs)).save(str(tmp_path / "m.keras"))
    with pytest.raises(PhraseLensError, match="without code of its own"):
        weights.load(str(tmp_path / "m.keras"))


def test_what_is_no_saved_model_is_refused(tmp_path):
    folder = export(tmp_path / "adder", lambda x: x + 1)
    found = saved_models.load(folder).signatures["serving_default"]
    assert found(tf.constant([1.0]))["output_0"].numpy() == [2.0]
    Path(folder, "saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(PhraseLensError, match="a SavedModel"):
        saved_models.load(folder)


@pytest.fixture
def dataset(tmp_path):
    stage = Run("embed_phrases", str(tmp_path / "d"), "a" * 64, {}, "", {}, {}, "", False)
    local = stage.empty_folder("index")
    for name in ("index.faiss", "config.json", "query_vectors.npy"):
        Path(local, name).write_bytes(name.encode())
    stage.commit_files("index", local, {})
    return Dataset(stage.output)


def test_an_index_is_read_only_as_it_was_committed(dataset, monkeypatch):
    sums = integrity.checksums(dataset, "index")
    assert set(sums) == {"index.faiss", "config.json"}
    with integrity.local_copy(dataset, "index") as folder:
        assert os.path.exists(os.path.join(folder, "index.faiss"))
    model = ModelFolder.of(dataset.root, "index")
    Path(model.path, "index.faiss").write_bytes(b"index.faisS")
    for opening in (
        lambda: models.load(features.phrase_index, model, settings=EmbeddingSettings()),
        lambda: integrity.local_copy(dataset, "index").__enter__(),
    ):
        with pytest.raises(PhraseLensError, match=r"index\.faiss.*manifest"):
            opening()
    Path(model.path, "index.faiss").unlink()
    with pytest.raises(PhraseLensError, match=r"index\.faiss.*manifest"):
        models.load(features.phrase_index, model, settings=EmbeddingSettings())
