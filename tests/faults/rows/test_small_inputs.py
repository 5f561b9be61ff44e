"""Next to nothing comes in: a clear error, or a dataset with empty shards left out."""

import pytest

from beam_jobs.mining import mine_pairs
from schemas.datasets import checks, manifest
from schemas.datasets.dataset import Dataset
from tests.support.datasets import work_folder
from tests.support.inputs.image_files import encode, photo
from tests.support.processes import forked

HEADER = "query,image,clicks\n"


def mine(tmp_path, log, *flags, output="mined"):
    (tmp_path / "log.csv").write_text(log)
    argv = [f"--log={tmp_path / 'log.csv'}", f"--output={tmp_path / output}"]
    return mine_pairs.run([*argv, "--min_users=1", *flags])


@pytest.mark.parametrize(
    ("log", "images", "status", "message"),
    [
        ("", True, 2, "log.csv"),
        (HEADER, True, 2, "table 'pairs': expected at least one row"),
        (HEADER + "red,p0,1\n", False, 2, "--images"),
    ],
    ids=["empty log", "header alone", "empty folder of images"],
)
def test_empty_input_is_an_error(tmp_path, capsys, log, images, status, message):
    (tmp_path / "photos").mkdir()
    if images:
        (tmp_path / "photos" / "p0.png").write_bytes(encode(photo(0), "PNG"))
    assert mine(tmp_path, log, f"--images={tmp_path / 'photos'}") == status
    printed = capsys.readouterr().err
    # How far it is may stand before it.
    (error,) = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert message in error
    assert "Traceback" not in printed
    assert manifest.read(str(tmp_path / "mined")) is None


def test_fewer_rows_than_shards(tiny_run, tmp_path, figure):
    """Two images in 32 shards, through every job that reads them, are those of one shard."""
    (tmp_path / "photos").mkdir()
    for n in range(2):
        (tmp_path / "photos" / f"p{n}.png").write_bytes(encode(photo(n), "PNG"))
    log = HEADER + "red,p0,1\nblue,p1,1\nred,p1,2\n"
    mined, features = {}, {}
    for shards in (1, 32):
        name, output = f"mined{shards}", str(tmp_path / f"features{shards}")
        flags = (f"--images={tmp_path / 'photos'}", f"--num_shards={shards}")
        assert mine(tmp_path, log, *flags, output=name) == 0
        root = str(tmp_path / name)
        command = work_folder.command_into(
            "embed_images", tiny_run.config, output, f"--mined={root}"
        )
        forked.run(command, str(tmp_path / "log"))
        assert checks.verify(root) == checks.verify(output) == []
        mined[shards], features[shards] = work_folder.rows_of(root), Dataset(output)
        del mined[shards]["content_hash"]  # that of the shards
    assert mined[1] == mined[32]
    files = {shards: len(found.shards("features")) for shards, found in features.items()}
    rows = {n: found.table("features").sort_by("image_id") for n, found in features.items()}
    assert rows[1].equals(rows[32])
    figure(f"2 images in 32 shards, of which {files[32]} exist: the rows of {files[1]} shard")
