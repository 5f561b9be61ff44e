"""A damaged input of a trainer or a job is named in one line, with the command that mends it."""

import shutil

import pytest

from beam_jobs.models import embed_images
from model_code.models.fusion import train as train_fusion
from model_code.models.text_generator import train as train_text_generator
from schemas.base import storage
from schemas.base.errors import Exit
from schemas.datasets import dataset as dataset_lib
from schemas.datasets import manifest
from tests.support.datasets import work_folder
from tests.support.datasets.work_folder import STAGES

MODULES = {
    "train_fusion": train_fusion,
    "train_text_generator": train_text_generator,
    "embed_images": embed_images,
}


def flip(path):
    """Changes a byte in the middle."""
    data = bytearray(storage.read_bytes(path))
    data[len(data) // 2] ^= 0b100
    storage.write_bytes(path, bytes(data))


def cut(path):
    """Leaves half; of TFRecord the records that are whole, so that it reads well."""
    data = storage.read_bytes(path)
    kept, start = 0, 0
    while path.endswith(".tfrecord") and start < len(data) // 2:
        kept, start = start, start + 16 + int.from_bytes(data[start : start + 8], "little")
    storage.write_bytes(path, data[: kept or len(data) // 2])


# A stage, the stage that wrote what is damaged, its table, and what happens to it. What is loaded
# as a whole is compared with its checksums then (schemas/datasets/integrity.py).
CASES = [
    ("train_fusion", "prepare_examples", "examples", flip),
    ("train_fusion", "prepare_examples", "examples", cut),
    ("train_text_generator", "prepare_pairs", "train", flip),
    ("train_text_generator", "prepare_pairs", "train", cut),
    ("embed_images", "embed_phrases", "index", cut),
]


@pytest.mark.parametrize(("stage", "of", "table", "harm"), CASES)
def test_it_is_named(tiny_run, tmp_path, capsys, stage, of, table, harm):
    root = str(tmp_path / STAGES[of].output)
    shutil.copytree(tiny_run.dataset(of), root)
    dataset = dataset_lib.Dataset(root)
    path = dataset.path(max(dataset.shards(table), key=lambda shard: shard.bytes))
    harm(path)
    flag = next(f for f, name in STAGES[stage].inputs.items() if name == STAGES[of].output)
    command = work_folder.command_into(stage, tiny_run.config, str(tmp_path / "output"))
    flags = [f for f in command[3:] if not f.startswith(f"--{flag}=")]
    assert MODULES[stage].run([*flags, f"--{flag}={root}"]) == Exit.CORRUPT
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(f"error: {path}: expected the shard that was committed, found ")
    assert f"./run.sh verify --repair {root}" in told
    assert manifest.read(str(tmp_path / "output")) is None
