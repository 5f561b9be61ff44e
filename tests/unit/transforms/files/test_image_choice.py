"""Of a folder each image is read, as what it is, and what is none is passed over and counted."""

import io
import tarfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base.errors import PhraseLensError
from tests.support.inputs.image_files import encode, photo
from transforms.files import webdataset
from transforms.files.image_choice import choose, format_of
from transforms.files.image_suffixes import IMAGE_SUFFIXES
from transforms.files.litter import is_litter, is_mark
from transforms.images.plan import count_images, plan_images
from transforms.images.readers import read_unit
from transforms.images.units import IMAGE_FIELDS
from transforms.rows.tabular import BadRows

MAPPING = {field: field for field in IMAGE_FIELDS}
LITTER = [
    "._a.jpg",
    ".DS_Store",
    ".hidden.png",
    "Thumbs.db",
    "thumbs.db",
    "ehthumbs.db",
    "Desktop.ini",
    "desktop.ini",
    "Picasa.ini",
    "_SUCCESS",
    "_metadata",
    "_common_metadata",
    ".a.jpg.crc",
    "a.jpg.crc",
    "__MACOSX/._a.jpg",
    "__MACOSX/a.jpg",
    ".thumbnails/normal/a.png",
    ".git/a.png",
    ".ipynb_checkpoints/a-checkpoint.png",
    "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
    "$RECYCLE.BIN/a.jpg",
    "day_$folder$",
    "_temporary/0/a.jpg",
]
IMAGES = [
    "a.jpg",
    "_DSC0001.JPG",
    "_MG_0001.jpg",
    "__a.png",
    "A.HEIC",
    "deep/er/b.webp",
    "c.jxl",
    "no_suffix",
    "two.dots.png",
    "[1].jpg",
    "_sub/d.gif",
]


def plan(*patterns, format_="auto", mapping=MAPPING, key="path"):
    return plan_images("images", [str(p) for p in patterns], format_, mapping, key)


def keys_of(found):
    """Keys of the rows that the units of a plan have, and what could not be read."""
    keys, bad = [], []
    for unit in found.units:
        for batch in read_unit(unit):
            if isinstance(batch, BadRows):
                bad += batch.details
            else:
                keys += batch["key"].to_pylist()
    return sorted(keys), bad


def fill(folder, names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


@pytest.mark.parametrize("name", LITTER)
def test_litter(name):
    assert is_litter(name)


@pytest.mark.parametrize("name", IMAGES)
def test_no_litter(name):
    assert not is_litter(name)
    assert not is_litter(f"./{name}")


@given(st.text(st.characters(codec="utf-8", exclude_characters="/"), max_size=9))
def test_what_is_a_mark_among_logs_is_litter_among_images(name):
    assert is_litter(name) >= (is_mark(name) and name.rpartition(".")[2] not in IMAGE_SUFFIXES)
    assert is_litter(f".{name}")
    assert not is_litter(f"x{name}.jpg") or name.startswith("\r")


def test_a_folder_is_read_without_its_litter(tmp_path):
    fill(tmp_path, [*LITTER, *IMAGES])
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    for pattern in (tmp_path, f"{tmp_path}/", f"{tmp_path}/**"):
        found = plan(pattern)
        assert keys_of(found)[0] == sorted(f"{tmp_path}/{name}" for name in IMAGES)
        assert len(found.files) == len(IMAGES)
        count = len({name.lower() for name in LITTER} | {"thumbs.db", "desktop.ini"})
        assert found.passed_over["hidden or of a system"] in (len(LITTER), count)
        assert "passed over" in found.fact


def test_who_names_a_hidden_folder_or_file_means_it(tmp_path):
    fill(tmp_path, [".cache/photos/a.jpg", ".cache/photos/.b.jpg", "_x/.c.jpg"])
    assert len(plan(tmp_path / ".cache" / "photos").files) == 1
    assert len(plan(f"{tmp_path}/.cache/photos/*.jpg").files) == 1
    assert len(plan(tmp_path / "_x" / ".c.jpg").files) == 1


def test_a_change_of_litter_is_no_change_of_the_images(tmp_path):
    fill(tmp_path, ["a.jpg"])
    before = [file.path for file in plan(tmp_path).files]
    fill(tmp_path, LITTER)
    assert [file.path for file in plan(tmp_path).files] == before


def test_a_folder_of_litter_alone_is_an_error_that_says_so(tmp_path):
    fill(tmp_path, LITTER[:4])
    with pytest.raises(PhraseLensError, match=r"found none but files that are 4 hidden or of a"):
        plan(tmp_path)


SIDECARS = [
    "a.txt",
    "a.json",
    "a.jpg.json",
    "a.jpg.supplemental-metadata.json",
    "a.xmp",
    "a.jpg.xmp",
    "a.AAE",
    "a.xml",
]


def test_files_about_an_image_are_no_images(tmp_path):
    fill(tmp_path, ["a.jpg", *SIDECARS, "other.txt", "page.html"])
    found = plan(tmp_path, key="name")
    assert keys_of(found)[0] == ["a.jpg", "other.txt", "page.html"]
    assert found.passed_over == {"about the others": len(SIDECARS)}
    assert len(plan(tmp_path / "a.jpg", tmp_path / "a.txt").files) == 2, "named by a person"


def write_tar(path, **files):
    with tarfile.open(path, "w") as file:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


PNG = encode(photo(), "PNG")


@pytest.fixture
def mixed(tmp_path):
    """Photos beside one of each container, tables of other things, and litter."""
    fill(tmp_path, ["p1.jpg", "p2.png", "a/p3.webp", ".DS_Store", "Thumbs.db", "a/._p3.webp"])
    write_tar(tmp_path / "shard.tar", **{"t1.png": PNG, "t2.jpg": PNG, "__MACOSX/._t2.jpg": b"x"})
    pq.write_table(
        pa.table({"key": ["q1", "q2"], "image": pa.array([PNG, PNG], pa.binary())}),
        tmp_path / "images.parquet",
    )
    (tmp_path / "labels.csv").write_text("photo,label\np1,shoe\n")
    return tmp_path


def test_a_mixed_folder_is_read_file_by_file_as_what_each_is(mixed):
    found = plan(mixed, key="stem")
    keys, bad = keys_of(found)
    assert (keys, bad) == (["p1", "p2", "p3", "q1", "q2", "t1", "t2"], [])
    assert found.passed_over == {"hidden or of a system": 3, "without the columns of images": 1}
    assert found.fact == (
        "images: 5 files (3 files, 1 table, 1 webdataset); passed over: "
        "3 hidden or of a system, 1 without the columns of images"
    )
    assert {file.path.rsplit("/", 1)[-1] for file in found.files} == {
        "p1.jpg", "p2.png", "p3.webp", "shard.tar", "images.parquet",
    }  # fmt: skip
    assert count_images(found.units) is None


@pytest.mark.parametrize(
    ("format_", "keys"),
    [
        ("webdataset", ["t1", "t2"]),
        ("files", ["images", "labels", "p1", "p2", "p3", "shard"]),
    ],
)
def test_a_format_that_is_named_takes_its_files_alone(mixed, format_, keys):
    assert keys_of(plan(mixed, format_=format_, key="stem"))[0] == keys


def test_one_stray_container_hides_no_photo(tmp_path):
    fill(tmp_path, [f"{i}.jpg" for i in range(100)])
    write_tar(tmp_path / "stray.tar", **{"t.png": PNG})
    assert len(keys_of(plan(tmp_path))[0]) == 101


def test_a_table_that_a_person_names_has_to_have_the_columns(mixed):
    with pytest.raises(PhraseLensError, match=r"labels\.csv"):
        plan(mixed / "labels.csv")
    with pytest.raises(PhraseLensError, match=r"labels\.csv"):
        plan(mixed / "labels.csv", mixed / "p1.jpg")


def test_tables_without_the_columns_are_an_error_where_they_are_most_of_a_folder(tmp_path):
    """Else images whose columns have other names would be left out without a word."""
    fill(tmp_path, ["stray.jpg"])
    for number in range(2):
        pq.write_table(pa.table({"id": ["0"], "img": [PNG]}), tmp_path / f"{number}.parquet")
    with pytest.raises(PhraseLensError, match=r"0\.parquet.*image_columns"):
        plan(tmp_path)
    found = plan(tmp_path, mapping=MAPPING | {"key": "id", "image": "img"}, key="stem")
    assert len(found.units) == 3


def test_photos_beside_a_table_of_paths(tmp_path):
    fill(tmp_path, ["p1.jpg"])
    (tmp_path / "images.csv").write_text("key,path\none,p1.jpg\n")
    assert keys_of(plan(tmp_path, key="stem"))[0] == ["one", "p1"]
    assert keys_of(plan(tmp_path, format_="table"))[0] == ["one"]


@pytest.mark.parametrize("suffix", ["csv", "parquet", "tfrecord"])
def test_an_empty_part_among_good_ones_is_passed_over(tmp_path, suffix):
    fill(tmp_path, ["p1.jpg"])
    (tmp_path / "part-0.csv").write_text("key,path\none,p1.jpg\n")
    (tmp_path / f"part-1.{suffix}").write_bytes(b"")
    parts = plan(f"{tmp_path}/part-*")
    assert [unit.paths for unit in parts.units] == [(f"{tmp_path}/part-0.csv",)]
    assert parts.passed_over == {"empty": 1}
    (tmp_path / "part-0.csv").unlink()
    with pytest.raises(PhraseLensError, match="found none but files that are 1 empty"):
        plan(f"{tmp_path}/part-*")


def test_output_of_img2dataset_in_all_its_layouts(tmp_path):
    """Tables and statistics beside shards, and texts beside files, are about these."""
    shards, files = tmp_path / "shards", tmp_path / "files"
    fill(shards, ["00000_stats.json"])
    write_tar(shards / "00000.tar", **{"000000000.jpg": PNG, "000000000.txt": b"a"})
    pq.write_table(pa.table({"key": ["0"], "url": ["u"]}), shards / "00000.parquet")
    fill(files, [f"00000/00000000{i}.{kind}" for i in range(3) for kind in ("jpg", "txt", "json")])
    pq.write_table(pa.table({"key": ["0"], "url": ["u"]}), files / "00000.parquet")
    fill(files, ["00000_stats.json"])
    assert keys_of(plan(shards))[0] == ["000000000"]
    assert keys_of(plan(files, key="stem"))[0] == [f"00000000{i}" for i in range(3)]


def test_litter_in_a_shard_makes_no_sample(tmp_path):
    path = tmp_path / "a.tar"
    members = {"./0.jpg": b"0", "./._0.jpg": b"x", "__MACOSX/._0.jpg": b"x", ".DS_Store": b"x"}
    write_tar(path, **members, **{"Thumbs.db": b"x", "1.heic": b"1", "2.cr2": b"2", "2.txt": b"t"})
    (rows,) = webdataset.read_images(str(path), 64)
    assert rows == [("./0", b"0"), ("1", b"1"), ("2", b"2")]


@given(st.lists(st.sampled_from([*IMAGES, *LITTER, "t.tar", "u.csv", "v.tfrecord", "a.txt"])))
def test_each_file_is_read_or_counted_once(names):
    paths = sorted({f"photos/{name}" for name in names})
    for format_ in ("auto", "files", "table", "tfrecord", "webdataset"):
        found = choose(paths, ["photos"], format_)
        assert len(found.formats) + found.passed_over.total() == len(paths)
        assert list(found.formats) == [p for p in paths if p in found.formats]
        if format_ == "auto":
            assert all(kind == format_of(path) for path, kind in found.formats.items())
