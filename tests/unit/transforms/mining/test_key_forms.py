"""A key is one key, however its characters are written: as one letter, or as letter and accent."""

import csv
import io
import tarfile
import types
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from schemas.base.fingerprint import hash64
from transforms.images.plan import plan_images
from transforms.images.readers import read_unit
from transforms.images.units import IMAGE_FIELDS
from transforms.mining import key_match
from transforms.mining.deletions import Deletions, read_deletions
from transforms.mining.events import LogRules, parse_events, without
from transforms.mining.labels import parse_labels
from transforms.rows.checked import one_form

STAGE = types.SimpleNamespace(name="mine_pairs", run_id="run")
MAPPING = {field: field for field in IMAGE_FIELDS}
LETTERS = st.sampled_from("aeéñöüÅçạ́がガ한글ΐй-_ ")
FORMS = st.sampled_from(["NFC", "NFD"])


def events_of(image: str, user: str = "u") -> dict:
    row = {"query": b"red", "image": image.encode(), "user": user.encode()}
    table = pa.table({name: pa.array([value], pa.binary()) for name, value in row.items()})
    (event,) = parse_events(table, STAGE, LogRules()).tables["events"].to_pylist()
    return event


def label_of(key: str, label: str) -> dict:
    table = pa.table({"key": pa.array([key.encode()]), "label": pa.array([label.encode()])})
    (row,) = parse_labels(table, STAGE, pa.array([], pa.string())).tables["labels"].to_pylist()
    return row


def keys_of_images(folder, kind: str) -> list[str]:
    units = plan_images("images", [str(folder)], "auto", MAPPING, kind).units
    return [key for unit in units for batch in read_unit(unit) for key in batch["key"].to_pylist()]


@given(st.text(LETTERS, min_size=1, max_size=8), FORMS, FORMS, FORMS)
def test_log_labels_and_deletions_have_one_form(tmp_path_factory, name, first, second, third):
    assume(name == name.strip())
    written = [unicodedata.normalize(form, name) for form in (first, second, third)]
    key = unicodedata.normalize("NFC", name)
    event = events_of(written[0], f"user {written[0]}")
    assert event["key"] == key
    assert label_of(written[1], written[2]) == {"key": key, "label": key, "split": None}
    path = tmp_path_factory.mktemp("forms") / "deletions.csv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        rows = [["image", "user"], [written[2], ""], ["", f"user {written[1]}"]]
        csv.writer(file).writerows(rows)
    deletions = read_deletions(str(path), b"")
    assert deletions.keys == (key,)
    assert event["user"] in deletions.users
    assert hash64(f"user {written[1]}") in deletions.users, "as an older version hashed it"
    keys = pa.array([written[0], "another"])
    none = np.zeros(2, np.int64)
    found = Deletions(keys=(key,)).match(keys, np.arange(2), none, none)
    assert found.tolist() == [True, False]
    assert without(pa.table({"key": keys}), (key,))["key"].to_pylist() == ["another"]


@given(st.lists(st.one_of(st.none(), st.text(LETTERS, max_size=5)), max_size=6))
def test_the_one_form_is_nfc(texts):
    expected = [text and unicodedata.normalize("NFC", text) for text in texts]
    assert one_form(pa.array(texts, pa.string())).to_pylist() == expected
    assert one_form(pa.chunked_array([texts], pa.string())).to_pylist() == expected


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_files_of_either_form_have_the_same_keys(tmp_path, form):
    name = unicodedata.normalize(form, "café 한글")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / f"{name}.png").write_bytes(b"an image")
    key = unicodedata.normalize("NFC", name)
    assert keys_of_images(folder, "stem") == [key]
    assert keys_of_images(folder, "name") == [f"{key}.png"]
    assert keys_of_images(folder, "path") == [f"{folder}/{key}.png"]
    (unit,) = plan_images("images", [str(folder)], "auto", MAPPING, "stem").units
    assert unit.places.read_file(unit.paths[0], unit.bases) == b"an image", "its path is as it was"
    (batch,) = read_unit(unit, frozenset({key}))
    assert batch["image"].to_pylist() == [None], "a file that must be forgotten is not opened"
    key_match.check_image_key({"the log": {key}}, unit.paths, "stem")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_tables_and_tar_files_of_either_form_have_the_same_keys(tmp_path, form):
    name = unicodedata.normalize(form, "naïve")
    (tmp_path / f"{name}.png").write_bytes(b"an image")
    table = tmp_path / "table.csv"
    table.write_text(f"key,path\n{name},{name}.png\n", encoding="utf-8")
    (unit,) = plan_images("images", [str(table)], "auto", MAPPING, "stem").units
    (batch,) = read_unit(unit)
    assert batch.to_pylist() == [{"key": "na\u00efve", "image": b"an image"}]
    with tarfile.open(tmp_path / "shard.tar", "w") as file:
        info = tarfile.TarInfo(f"{name}.png")
        info.size = 8
        file.addfile(info, io.BytesIO(b"an image"))
    (unit,) = plan_images("images", [str(tmp_path / "shard.tar")], "auto", MAPPING, "stem").units
    (batch,) = read_unit(unit)
    assert batch.to_pylist() == [{"key": "na\u00efve", "image": b"an image"}]
