"""Mining day after day with --reuse gives the same bytes as mining each day from scratch."""

import csv
import random

from schemas.datasets import dataset
from tests.support.datasets.messy_mining import COLUMNS, FILES, checksums, messy_log, mine
from tests.support.inputs.image_files import encode, photo


def test_days_that_reuse_are_those_from_scratch(tmp_path):
    rng, earlier, folder = random.Random(0), "", tmp_path / "images"
    folder.mkdir()
    log = tmp_path / "log.csv"
    with open(log, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(messy_log(0))
    files = {name: encode(photo(i), format_) for name, (i, format_) in FILES.items()}
    seen: set[bytes] = set()
    for day, changes in enumerate((0, 4, 9)):
        for name in rng.sample(sorted(files), len(files) if not day else changes):
            path = folder / f"{name}.img"
            if path.exists():
                path.unlink()
            else:
                path.write_bytes(files[name])
        if day == 2:
            (folder / "p3.img").write_bytes(encode(photo(77), "BMP"))  # another picture of a name
        present = [path.read_bytes() for path in folder.iterdir()]
        flags = [f"--num_shards={2 + day}", "--max_dead_fraction=1"]
        status, root = mine(tmp_path, log, folder, *flags, output=f"alone{day}")
        assert status == 0
        alone = dataset.Dataset(root)
        assert "reused.rows" not in alone.manifest.counters
        if day:
            reuse = f"--reuse={earlier}"
            status, root = mine(tmp_path, log, folder, *flags, reuse, output=f"day{day}")
            assert status == 0
            assert checksums(root) == checksums(alone.root)
            found = dataset.Dataset(root).manifest
            assert found.content_hash == alone.manifest.content_hash
            reused = found.counters["reused.rows"]
            assert reused == sum(data in seen for data in present) > 0
            assert without_reuse(found.counters) == without_reuse(alone.manifest.counters)
        earlier = root
        seen = set(present)


def without_reuse(counters):
    """Counters as they are where nobody knows what was there before: what is gone is unknown."""
    found = {k: v for k, v in counters.items() if k not in ("reused.rows", "image_keys.retired")}
    for kind in ("clicks", "known_labels"):
        retired = found.pop(f"{kind}.dropped_retired_image")
        found[f"{kind}.dropped_unknown_image"] += retired
    return found


def test_no_letter_names_a_forgotten_image(tmp_path):
    """Its file is gone, or its download failed: nothing of it is read, and nothing dies."""
    (tmp_path / "images").mkdir()
    for i in range(4):
        (tmp_path / "images" / f"p{i}.png").write_bytes(encode(photo(i), "PNG"))
    table, log = tmp_path / "table.csv", tmp_path / "log.csv"
    names = [f"p{i}" for i in range(4)] + ["gone", "somebody"]
    table.write_text("key,path\n" + "".join(f"{n},images/{n}.png\n" for n in names))
    log.write_text("query,image,clicks\n" + "".join(f"red,{n},3\n" for n in names))
    flags = ["--num_shards=1", "--max_dead_fraction=0.9"]
    _, first = mine(tmp_path, log, table, *flags, output="first")
    deletions = tmp_path / "deletions.csv"
    deletions.write_text("image,user,query\nsomebody,,\n")
    flags.append(f"--forget={deletions}")
    for extra in ([], [f"--reuse={first}"]):
        status, root = mine(tmp_path, log, table, *flags, *extra, output=f"mined{len(extra)}")
        assert status == 0
        found = dataset.Dataset(root)
        letters = found.table("dead_letters").to_pylist()
        assert {letter["key"] for letter in letters} == {"gone"}
        assert "somebody" not in str(letters)
        assert found.manifest.counters["images.dropped_forgotten"] == 1
        assert found.manifest.counters.get("reused.rows", 0) == 4 * len(extra)


def test_other_limits_reuse_nothing(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name, (i, format_) in FILES.items():
        (folder / f"{name}.img").write_bytes(encode(photo(i), format_))
    log = tmp_path / "log.csv"
    with open(log, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(messy_log(0))
    flags = ["--num_shards=2", "--max_dead_fraction=1"]
    _, first = mine(tmp_path, log, folder, *flags, output="first")
    flags += [f"--reuse={first}", "--max_image_side=16"]
    status, again = mine(tmp_path, log, folder, *flags, output="again")
    assert status == 0
    found = dataset.Dataset(again)
    assert "reused.rows" not in found.manifest.counters
    assert max(found.table("images", ["width"])["width"].to_pylist()) == 16
