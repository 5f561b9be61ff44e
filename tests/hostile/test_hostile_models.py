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

from model_code import backbones, saved_models
from schemas import integrity
from schemas.arrays import load_array
from schemas.errors import PhraseLensError
from schemas.manifest import Dataset
from schemas.stage import Stage
from transforms import models
from transforms.models import ModelFolder

ROOT = Path(__file__).resolve().parent.parent.parent
PRODUCT = ("beam_jobs", "transforms", "model_code", "schemas", "samples")
# Each runs what a file says, or allows it.
UNSAFE = re.compile(
    r"\bpickle\.loads?\b|\bimport (pickle|dill|cloudpickle|marshal|shelve|joblib)\b"
    r"|allow_pickle\s*=\s*True|safe_mode\s*=\s*False|enable_unsafe_deserialization"
    r"|(?<![.\w])(eval|exec)\(|yaml\.(unsafe_)?load\(|shell\s*=\s*True|os\.system\("
    r"|\bnp\.load\(|\btf\.saved_model\.load\(|keras\.models\.load_model\("
)
READERS = {"schemas/arrays.py": "np.load(", "model_code/saved_models.py": "tf.saved_model.load("}


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
        backbones.load(path)
    with pytest.raises(PhraseLensError, match="without code of its own"):
        backbones.pretrained("small_resnet", 32, path, "--weights")
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
        backbones.load(path)


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
        backbones.pretrained("small_resnet", 32, path, "--weights")


class _Reader(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def read(self, path):
        return {"content": tf.io.read_file(path)}


class _Adder(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32)])
    def add(self, x):
        return {"sum": x + 1}


def test_a_graph_that_opens_files_is_refused(tmp_path):
    reader, adder = _Reader(), _Adder()
    tf.saved_model.save(reader, str(tmp_path / "reader"), {"serving_default": reader.read})
    tf.saved_model.save(adder, str(tmp_path / "adder"), {"serving_default": adder.add})
    with pytest.raises(PhraseLensError, match="ReadFile"):
        saved_models.load(str(tmp_path / "reader"))
    found = saved_models.load(str(tmp_path / "adder")).signatures["serving_default"]
    assert found(tf.constant([1.0]))["sum"].numpy() == [2.0]
    (tmp_path / "adder" / "saved_model.pb").write_bytes(b"\xff\xff")
    with pytest.raises(PhraseLensError, match="a SavedModel"):
        saved_models.load(str(tmp_path / "adder"))


@pytest.mark.parametrize("operation", ["WriteFile", "EagerPyFunc", "TFRecordDatasetV2", "RpcCall"])
def test_operations_that_reach_outside(operation):
    assert saved_models.is_forbidden(operation)


@pytest.fixture
def dataset(tmp_path):
    stage = Stage("embed_phrases", str(tmp_path / "d"), "a" * 64, {}, "", {}, {}, "", False)
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
        lambda: models.load("phrase_index", model),
        lambda: integrity.local_copy(dataset, "index").__enter__(),
    ):
        with pytest.raises(PhraseLensError, match=r"index\.faiss.*manifest"):
            opening()
    Path(model.path, "index.faiss").unlink()
    with pytest.raises(PhraseLensError, match=r"index\.faiss.*manifest"):
        models.load("phrase_index", model)
