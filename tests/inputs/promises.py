"""Outputs that several write, secrets in files, and models of others."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

from beam_jobs.mining import log as log_lib
from beam_jobs.mining import mine_log
from schemas.base import storage
from schemas.base.errors import PhraseLensError
from schemas.runs import run as run_lib
from tests.inputs.case import Case, command, error_of
from tests.support.inputs.hidden_text import shown

KEY = "5ec3e7a91bd0c4f85ec3e7a91bd0c4f8"


def _second_attempt_breaks_off(folder: Path) -> str:
    path = str(folder / "part-0.parquet")
    storage.write_bytes(path, b"of the first")
    try:
        with storage.open_output(path) as file:
            file.write(b"half of the second")
            raise KeyError("what breaks it off")
    except KeyError:
        left = storage.list_files(str(folder))
        assert left == ["part-0.parquet"]
        return f"there is what was there: {storage.read_bytes(path).decode()}"


def _two_attempts(folder: Path) -> str:
    config = mine_log.Config(output=str(folder / "day"), log=("log.csv",))
    one, two = (run_lib.plan("mine_log", config, [], {}) for _ in range(2))
    assert one.run_id == two.run_id
    for attempt in (one, two):
        storage.write_bytes(f"{attempt.spill}/rows.arrow", b"rows")
    storage.remove_tree(one.spill)
    return f"the other still reads its {storage.read_bytes(f'{two.spill}/rows.arrow').decode()}"


def _graph_of_a_list(folder: Path) -> str:
    (folder / "list.csv").write_text("image,user,query\nholiday-8841,,\n,anna@mail.example,\n")
    (folder / "person.key").write_text(KEY)
    flags = {"forget": str(folder / "list.csv"), "person_key": str(folder / "person.key")}
    rules = log_lib.log_rules(mine_log.Config(output="o", log=("log.csv",), **flags), None)
    graph = pickle.dumps(rules)
    assert not shown(graph, [KEY.encode(), b"holiday-8841", b"anna@mail.example"])
    worker = pickle.loads(graph)()
    assert worker.person_key.decode() == KEY
    assert worker.forgotten == ("holiday-8841",)
    return "the graph names the files; workers read them"


def _key_as_flag(folder: Path) -> str:
    (folder / "log.csv").write_text("query,image\na,b\n")
    flags = f"--log={folder}/log.csv", f"--output={folder}/day", f"--person_key={KEY}"
    return error_of(command(mine_log.run, folder, *flags))


def _model(call: Callable[[Any], Any]) -> Callable[[Path], str]:
    """Exports a function of TensorFlow ([n] floats → something) and loads it."""

    def run(folder: Path) -> str:
        import tensorflow as tf

        from model_code.runtime import saved_models

        module = tf.Module()
        module.call = tf.function(call, input_signature=[tf.TensorSpec([None], tf.float32)])
        tf.saved_model.save(module, str(folder / "model"), {"serving_default": module.call})
        try:
            saved_models.load(str(folder / "model"))
        except PhraseLensError as error:
            return f"refused: {error}".replace(f"{folder}/", "")
        return "loaded"

    return run


def _reads(x):
    import tensorflow as tf

    return tf.strings.length(tf.io.read_file("/etc/hostname"))


def _writes(x):
    import tensorflow as tf

    names = {"tensor_names": ["stolen"], "shape_and_slices": [""]}
    tf.raw_ops.SaveV2(prefix="/elsewhere/stolen", tensors=[x], **names)
    return x


def _maps(x):
    import tensorflow as tf

    name = "/dev/shm/of_another_process"
    return x + tf.raw_ops.ImmutableConst(dtype=tf.float32, shape=[1], memory_region_name=name)


def _computes(x):
    import tensorflow as tf

    return tf.nn.gelu(tf.einsum("i,j->ij", x, x)) + tf.random.normal([])


def _found(operation: str) -> str:
    return (
        "refused: model/saved_model.pb: expected a graph that only computes, found "
        f"{operation}. Take these operations out of the model, or load one that "
        "./run.sh export_model wrote."
    )


CASES = [
    Case(
        "two attempts at one output",
        "a second attempt at a file breaks off, on a disk or in a bucket",
        "there is what was there: of the first",
        _second_attempt_breaks_off,
    ),
    Case(
        "two attempts at one output",
        "two launchers make the same run, and one commits first",
        "the other still reads its rows",
        _two_attempts,
    ),
    Case(
        "secrets",
        "a key of people, and a deletion list, in what a runner stores of the job",
        "the graph names the files; workers read them",
        _graph_of_a_list,
    ),
    Case(
        "secrets",
        "`--person_key` with the key itself instead of its file",
        "refused: --person_key: expected the path of a file that can be read (FileNotFoundError). "
        "Make one, and give its path: openssl rand -hex 32 > person.key",
        _key_as_flag,
    ),
    Case("models", "a SavedModel that reads a file", _found("ReadFile"), _model(_reads)),
    Case("models", "a SavedModel that writes a file", _found("SaveV2"), _model(_writes)),
    Case("models", "a SavedModel that maps a file", _found("ImmutableConst"), _model(_maps)),
    Case("models", "a SavedModel with einsum and random numbers", "loaded", _model(_computes)),
]
