"""The nearest images against plain NumPy, and what is said of images that cannot be searched."""

import dataclasses
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from beam_jobs.mining.flags import Config as MiningConfig
from beam_jobs.models import similar
from schemas.base import fingerprint
from schemas.base.errors import PhraseLensError
from schemas.console import flags as flags_lib
from schemas.console.flags import flag
from schemas.datasets import commit, manifest
from schemas.datasets import shards as shards_lib
from schemas.runs import run as run_lib
from schemas.tables import embedded
from schemas.tables.vectors import vectors_to_arrow
from tests.support.datasets import mined_dataset
from tests.support.inputs import icc_profiles, image_files
from transforms.images.clean import ImageLimits, clean_image

IMAGES, SHARDS, WIDTH = 60, 3, 5
LIMITS = similar.limits_of({})


@dataclasses.dataclass(frozen=True)
class _Config:
    output: str = flag("Dataset.", role="runtime")
    num_phrases: int = flag("N.", default=2)


def image_id(number: int) -> str:
    return fingerprint.of_json(number)[:32]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Features in three shards and the vectors in them, a mined dataset, and two "models"."""
    root = str(tmp_path_factory.mktemp("similar"))
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(IMAGES, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[1] = vectors[0]
    for name in ("generator", "other"):
        planned = run_lib.plan("train_text_generator", _Config(f"{root}/{name}"), [], {})
        planned.commit_files("model", planned.empty_folder("model"), {}, name)
    schema = embedded.features({"query_emb": (WIDTH,)})
    rows = [
        dict.fromkeys(schema.names)
        | {"image_id": image_id(i), "query_emb": vectors[i]}
        | {"phrases": [f"phrase {i % 4}", f"phrase {i % 5}"]}
        for i in range(IMAGES)
    ]
    table = pa.Table.from_pylist(rows, schema)
    shard_of = pa.array(fingerprint.shard_of(table["image_id"], SHARDS))
    inputs = {"generator": f"{root}/generator"}
    planned = run_lib.plan("embed_images", _Config(f"{root}/features"), [], inputs)
    shards = [
        shards_lib.write_parquet(
            planned.output,
            planned.shard_path("features", index, SHARDS, "parquet"),
            index,
            table.filter(pc.equal(shard_of, index)),
        )
        for index in range(SHARDS)
    ]
    written = {"features": manifest.Table("parquet", "", tuple(shards))}
    commit.commit(planned.output, planned.manifest(written, {}, SHARDS), planned.seen)
    images = [
        {"image_id": image_id(i), "keys": [f"{i}.jpg", f"copy of {i}.jpg"], "image": b""}
        for i in range(IMAGES)
    ]
    mined_dataset.write_mined(f"{root}/mined", images, [], [], [])
    return root, vectors


def oracle(vectors: np.ndarray, query: int, count: int) -> list[str]:
    cosines = vectors @ vectors[query]
    ids = [image_id(i) for i in range(IMAGES)]
    return sorted(ids, key=lambda i: (-cosines[ids.index(i)].round(6), i))[:count]


def found(argv: list[str], capsys) -> list[dict]:
    assert similar.run([*argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_images_by_id_equal_a_scan_of_all_in_numpy(work, capsys):
    root, vectors = work
    queries = [7, 0, 33]
    argv = [*map(image_id, queries), f"--features={root}/features", f"--mined={root}/mined"]
    for query, image in zip(queries, found([*argv, "--count=8"], capsys), strict=True):
        assert [item["image_id"] for item in image["similar"]] == oracle(vectors, query, 8)
        for rank, item in enumerate(image["similar"], start=1):
            (number,) = (i for i in range(IMAGES) if image_id(i) == item["image_id"])
            assert item["rank"] == rank
            assert item["cosine"] == pytest.approx(vectors[query] @ vectors[number], abs=1e-5)
            assert item["keys"] == [f"{number}.jpg", f"copy of {number}.jpg"]
            both = {f"phrase {n}" for n in (query % 4, query % 5)}
            assert set(item["shared_phrases"]) == both & set(item["phrases"])
        assert image["similar"][0]["cosine"] == 1


def test_what_people_read(work, capsys):
    root, _ = work
    argv = [image_id(7), f"--features={root}/features", f"--mined={root}/mined", "--count=2"]
    assert similar.run(argv) == 0
    first, second, shared, *_ = capsys.readouterr().out.splitlines()
    assert first == f"{image_id(7)}: phrase 3, phrase 2"
    assert second == f"   1  1.000  {image_id(7)} 7.jpg copy of 7.jpg"
    assert shared.strip() == "shared: phrase 3, phrase 2"


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 50), st.integers(1, 17))
def test_an_image_or_its_equal_comes_first_however_the_rows_are_cut(seed, rows, count, step):
    rng = np.random.default_rng(seed)
    # Few distinct vectors, of any length: ties are the rule.
    vectors = rng.choice(rng.normal(size=(8, 3)).astype(np.float32), rows)
    vectors *= rng.uniform(0.5, 2, (rows, 1)).astype(np.float32)
    ids = [f"{i:02d}" for i in rng.permutation(rows)]
    batch = pa.RecordBatch.from_arrays(
        [pa.array(ids), vectors_to_arrow(vectors)],
        ["image_id", "query_emb"],
    )
    batches = [batch.slice(start, step) for start in range(0, rows, step)]
    nearest = similar.nearest_images(vectors, batches, count)
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, result in enumerate(nearest):
        assert len(result) == min(count, rows)
        cosines = [cosine for _, cosine in result]
        assert cosines[0] == pytest.approx(1, abs=1e-6)
        assert cosines == sorted(cosines, reverse=True)
        np.testing.assert_allclose(cosines, np.sort(units @ units[row])[::-1][:count], atol=2e-6)
        assert len({image for image, _ in result}) == len(result)


def test_what_cannot_be_searched_is_named(work, tmp_path, capsys):
    root, _ = work
    page = tmp_path / "page.jpg"
    page.write_text("<html></html>")
    picture = tmp_path / "red.jpg"
    picture.write_bytes(mined_dataset.jpeg((200, 0, 0), 0))
    features, generator = f"--features={root}/features", f"--generator={root}/generator"
    for argv, expected in (
        ([f"{tmp_path}/none.jpg", features], f"{tmp_path}/none.jpg: expected an image file"),
        ([f"{page}", features, generator], f"{page}: expected an image"),
        ([f"{picture}", features], "expected --generator"),
        ([f"{picture}", features, f"--generator={root}/other"], "other: expected what"),
        ([f"{picture}", features, f"--generator={root}/none"], "none: expected a committed"),
        ([image_id(1), f"--features={root}/mined"], "table 'features'"),
        ([image_id(1), features, "--count=0"], "--count=0: expected a whole number, at least 1"),
        ([image_id(1), features, "--cuont=3"], "Did you mean --count?"),
    ):
        assert similar.run(argv) == 2, argv
        assert expected in capsys.readouterr().err


def test_an_image_is_read_as_mine_pairs_would_store_it(tmp_path):
    """Upright, on white, without colours that networks do not know, and not larger than there."""
    clean = mined_dataset.jpeg((10, 200, 30), 0)
    (tmp_path / "clean.jpg").write_bytes(clean)
    assert similar.read_image(f"{tmp_path}/clean.jpg", LIMITS) == clean
    turned = Image.new("RGB", (40, 20), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn right
    turned.save(tmp_path / "turned.jpg", exif=exif)
    glass = Image.new("RGBA", (30, 30), (255, 0, 0, 0))
    glass.save(tmp_path / "glass.png")
    Image.new("P", (700, 100)).save(tmp_path / "long.gif")
    (tmp_path / "long.jpg").write_bytes(mined_dataset.jpeg((0, 0, 0), 0, size=600))
    for name, size, colour in (
        ("turned.jpg", (20, 40), (255, 0, 0)),
        ("glass.png", (30, 30), (255, 255, 255)),
        ("long.gif", (512, 73), (0, 0, 0)),
        ("long.jpg", (512, 512), None),
    ):
        with Image.open(io.BytesIO(similar.read_image(f"{tmp_path}/{name}", LIMITS))) as image:
            assert (image.format, image.mode, image.size) == ("JPEG", "RGB", size), name
            if colour:
                assert (
                    max(abs(a - b) for a, b in zip(image.getpixel((5, 5)), colour, strict=True)) < 4
                )


KINDS = {
    "photo.jpg": image_files.encode(image_files.photo(1, 700, 500), "JPEG"),
    "turned.jpg": image_files.rotated_jpeg(image_files.photo(), 6),
    "adobe.png": image_files.encode(image_files.photo(), "PNG", icc_profile=icc_profiles.ADOBE_RGB),
    "deep.png": image_files.png16(np.full((16, 24), 40_000, np.uint16)),
    "phone.heic": image_files.HEIC,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_is_read_as_the_very_bytes_that_mining_stores(tmp_path, name):
    (tmp_path / name).write_bytes(KINDS[name])
    assert similar.read_image(f"{tmp_path}/{name}", LIMITS) == clean_image(KINDS[name], LIMITS).data


def test_a_file_is_read_with_the_limits_of_the_mined_dataset(tmp_path):
    mined = MiningConfig(output="", max_image_side=64)
    limits = similar.limits_of(flags_lib.settings(mined))
    (tmp_path / "a.jpg").write_bytes(KINDS["photo.jpg"])
    expected = clean_image(KINDS["photo.jpg"], ImageLimits.of(mined))
    assert similar.read_image(f"{tmp_path}/a.jpg", limits) == expected.data
    assert expected.width == 64
    small = similar.limits_of({"max_image_pixels": 1000})
    with pytest.raises(PhraseLensError, match="too_many_pixels: 700 x 500"):
        similar.read_image(f"{tmp_path}/a.jpg", small)


def test_a_damaged_file_is_named(tmp_path):
    data = bytearray(image_files.encode(image_files.photo(), "PNG"))
    data[-20] ^= 1
    (tmp_path / "bad.png").write_bytes(data)
    with pytest.raises(PhraseLensError, match=r"bad\.png: expected an image\. truncated_image: "):
        similar.read_image(f"{tmp_path}/bad.png", LIMITS)


def test_a_decoder_that_runs_away_is_ended_and_named(tmp_path):
    """Files of strangers are decoded apart, with limits of memory and time."""
    (tmp_path / "slow.jpg").write_bytes(image_files.jpeg_of_scans(12_000))
    with pytest.raises(PhraseLensError, match=r"slow\.jpg: expected an image\. too_slow"):
        similar.read_image(f"{tmp_path}/slow.jpg", similar.limits_of({"max_image_seconds": 1}))
