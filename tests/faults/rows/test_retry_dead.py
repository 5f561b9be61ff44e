"""--retry_dead: what died for a reason that has passed is tried again, and nothing else."""

import csv
import http.server

import pytest
import tensorflow as tf

from beam_jobs.mining import mine_pairs
from beam_jobs.models import embed_images
from model_code.images.embedder import ImageEmbedder
from schemas.base import storage
from schemas.base.errors import Exit
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from tests.support.datasets import work_folder
from tests.support.datasets.messy_mining import COLUMNS, messy_log
from tests.support.inputs.image_files import encode, photo
from tests.support.processes.cloud import serve

IMAGES, BROKEN = 20, range(5)


@pytest.fixture
def embed(tiny_run, tmp_path, monkeypatch):
    """Runs embed_images; decode(images) may raise, and sees all that are decoded."""
    decode_images = ImageEmbedder.decode
    output = str(tmp_path / "features")

    def run(decode, *flags):
        def watched(embedder, images, sizes=None):
            decode(images)
            return decode_images(embedder, images, sizes)

        monkeypatch.setattr(ImageEmbedder, "decode", watched)
        command = work_folder.command_into("embed_images", tiny_run.config, output, *flags)
        status = embed_images.run(command[3:])
        return status, Dataset(output) if manifest.read(output) else None

    return run


def test_images_that_died_in_a_network_are_embedded_again(
    embed, tiny_run, capsys, monkeypatch, figure
):
    whole = Dataset(tiny_run.dataset("embed_images"))
    images = Dataset(tiny_run.dataset("mine_pairs")).table("images")["image"].to_pylist()
    bad = set(images[3:9])
    decoded = []

    def fail(batch):
        if bad.intersection(batch):
            raise tf.errors.InvalidArgumentError(None, None, "no such picture")

    status, _ = embed(fail, "--retry_dead=true")
    assert status == 2
    assert "without --retry_dead" in capsys.readouterr().err

    status, broken = embed(fail)
    assert (status, broken.manifest.dead_rows) == (0, len(bad))

    status, mended = embed(decoded.extend, "--retry_dead=true")
    assert (status, mended.manifest.dead_rows) == (0, 0)
    assert set(decoded) == bad
    assert len(decoded) == len(bad)
    assert mended.manifest.run_id != broken.manifest.run_id
    rows, expected = (
        found.table("features", ["image_id", "phrases", "labels", "split"]).sort_by("image_id")
        for found in (mended, whole)
    )
    assert rows.equals(expected)
    assert mended.manifest.content_hash != broken.manifest.content_hash
    for flags in ((), ("--retry_dead=true",)):
        status, after = embed(decoded.extend, *flags)
        assert (status, after.manifest.run_id) == (0, mended.manifest.run_id)
    assert len(decoded) == len(bad)
    printed = capsys.readouterr().out
    assert "already done" in printed
    assert "nothing died" in printed
    figure(f"{len(bad)} dead of {len(images)}: {len(decoded)} decoded again, all rows as if never")


def busy(batch):
    raise tf.errors.UnavailableError(None, None, "the device is busy")


def well(batch):
    pass


def test_a_retry_stays_in_use_after_other_work(embed):
    limit = "--max_dead_fraction=1"
    _, broken = embed(busy, limit)
    assert broken.manifest.tables["features"].rows == 0
    _, mended = embed(well, limit, "--retry_dead=true")
    assert mended.manifest.dead_rows == 0
    embed(well, limit, "--num_phrases=2")
    _, again = embed(busy, limit)
    assert again.manifest.run_id == mended.manifest.run_id
    # It needs not the first run, which may have been collected meanwhile.
    embed(well, limit, "--num_phrases=2")
    storage.remove_tree(broken.run_folder)
    status, again = embed(busy, limit)
    assert (status, again.manifest.run_id) == (0, mended.manifest.run_id)


def test_a_run_over_the_ceiling_tries_its_dead_rows_again(embed, capsys, figure):
    decoded = []
    status, nothing = embed(busy)
    assert (status, nothing) == (2, None)
    assert "100.0% of images died" in capsys.readouterr().err
    status, features = embed(decoded.extend)
    assert (status, features.manifest.dead_rows) == (0, 0)
    figure(f"100 % dead, nothing committed; then all {len(decoded)} are good by the same command")


class _Photos(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        number = int(self.path.strip("/"))
        down = number in self.server.down
        body = b"" if down else encode(photo(number), "PNG")
        body = b"<html>gone</html>" if number in self.server.gone else body
        self.send_response(503 if down else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def test_images_that_could_not_be_fetched_are_fetched_again(tmp_path, capsys, figure):
    with open(tmp_path / "log.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(messy_log(0, 100))

    def mine(output, *flags):
        argv = [f"--log={tmp_path}/log.csv", f"--images={tmp_path}/images.csv", "--num_shards=2"]
        argv += ["--image_columns=key=name,path=url", f"--output={tmp_path}/{output}"]
        argv += ["--fetch_http=true", "--fetch_private_hosts=localhost", "--max_dead_fraction=1"]
        argv += ["--min_users=1", "--one_person_pairs=true", *flags]
        return mine_pairs.run(argv), Dataset(f"{tmp_path}/{output}").manifest

    with serve(_Photos) as server:
        server.down, server.gone = set(BROKEN), set()
        lines = [f"p{i},http://localhost:{server.server_port}/{i}" for i in range(IMAGES)]
        (tmp_path / "images.csv").write_text("\n".join(["name,url", *lines]))
        _, broken = mine("mined")
        server.down = {7, 8}
        status, unchanged = mine("mined", "--retry_dead=true")
        assert (status, unchanged) == (Exit.UNAVAILABLE, broken)
        assert "good in run" in capsys.readouterr().err
        # It answers now, but with no image: that dies of something else, as the same row.
        server.down, server.gone = set(), {BROKEN[0]}
        status, mended = mine("mined", "--retry_dead=true")
        assert status == 0
        mine("whole")
    kept = IMAGES - len(BROKEN)
    assert (broken.tables["images"].rows, mended.tables["images"].rows) == (kept, IMAGES - 1)
    assert mended.counters["reused.rows"] == kept
    rows, expected = (work_folder.rows_of(f"{tmp_path}/{name}") for name in ("mined", "whole"))
    assert rows == expected
    figure(f"{len(BROKEN)} of {IMAGES} answered 503: all rows as if they had been there at once")
