"""The figures for a monitor are OpenMetrics, and those of the manifests."""

import json
import re

from hypothesis import given
from hypothesis import strategies as st

from schemas.base.errors import Exit
from schemas.datasets import manifest
from schemas.maintenance import metrics
from schemas.runs import changes
from tests.support.datasets import gate_work
from tests.support.datasets.fake_stages import FORGOTTEN, NEXT, run
from tests.support.datasets.gate_work import Day

LABEL = r'([a-z_]+)="((?:[^"\\\n]|\\[\\n"])*)"'
SAMPLE = re.compile(rf"([a-z_]+)(?:\{{({LABEL}(?:,{LABEL})*)\}})? (-?[0-9.e+-]+)")
ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


def parsed(text):
    """Metric → labels → value, by the specification's text format; fails where it is none."""
    assert text.endswith("\n# EOF\n")
    found, family = {}, None
    for line in text.splitlines()[:-1]:
        if line.startswith("# TYPE "):
            _, _, family, kind = line.split(" ")
            assert kind == "gauge"
            assert family not in found
            found[family] = {}
        elif line.startswith(("# UNIT ", "# HELP ")):
            _, what, name, value = line.split(" ", 3)
            assert name == family
            assert not found[family], "before the samples"
            assert value
            assert what == "HELP" or name.endswith(f"_{value}")
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            assert sample[1] == family
            labels = re.findall(LABEL, sample[2] or "")
            unescaped = tuple(
                (key, re.sub(r'\\[\\n"]', lambda m: ESCAPES[m[0]], value)) for key, value in labels
            )
            assert unescaped not in found[family]
            found[family][unescaped] = float(sample[7])
    return found


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=9),
        st.floats(allow_nan=False, allow_infinity=False),
        max_size=5,
    )
)
def test_any_label_and_number_comes_back(values):
    text = metrics.text({"rows": [({"dataset": name}, value) for name, value in values.items()]})
    lines = text.split("\n")
    assert len(lines) == len(values) + 4, "a line each"
    found = {}
    for line in lines[2:-2]:
        sample = SAMPLE.fullmatch(line)
        assert sample
        ((_, value),) = re.findall(LABEL, sample[2])
        found[re.sub(r'\\[\\n"]', lambda m: ESCAPES[m[0]], value)] = float(sample[7])
    assert found == values


def test_a_run_writes_them_beside_its_summary(fake_work, fake_stages):
    assert run(fake_work, NEXT) == Exit.DONE
    changes.hold(str(fake_work), "2026-01-09", "not yet")
    fake_stages[1].add("mine_pairs")
    assert run(fake_work, FORGOTTEN, "--forget=list.csv") == Exit.UNAVAILABLE
    found = parsed((fake_work / metrics.FILE_NAME).read_text())
    assert set(found) == {f"phraselens_{name}" for name in metrics.HELP}
    assert found["phraselens_run_exit_status"] == {(): 5}
    assert found["phraselens_deletion_pending"] == {(): 1}
    assert found["phraselens_holds"] == {(): 1}
    assert found["phraselens_snapshots"] == {(): 2}
    fake_stages[1].clear()
    assert run(fake_work, FORGOTTEN, "--forget=list.csv") == Exit.DONE
    found = parsed((fake_work / metrics.FILE_NAME).read_text())
    told = json.loads((fake_work / "summaries" / f"{FORGOTTEN}.json").read_text())
    assert found["phraselens_deletion_pending"] == {(): 0}
    assert found["phraselens_stage_seconds"] == {
        (("stage", row["stage"]),): row["seconds"] for row in told["stages"]
    }
    assert found["phraselens_in_use_timestamp_seconds"][()] > 1.7e9


def test_rows_and_dead_rows_are_those_of_the_manifests(tmp_path):
    work = str(tmp_path / "work")
    gate_work.write(work, "2026-01-01", Day(images=50, dead=7))
    told = {"exit": 0, "seconds": 1.5, "ended": "2026-01-01T00:00:10Z", "stages": []}
    found = parsed(metrics.of(work, told))
    mined = manifest.read(f"{work}/mined")
    for table, of_table in mined.tables.items():
        labels = (("dataset", "mined"), ("table", table))
        assert found["phraselens_rows"][labels] == of_table.rows
    assert found["phraselens_dead_rows"][(("dataset", "mined"), ("kind", "images"))] == 7
    size = sum(shard.bytes for shard in manifest.shards_of(mined))
    assert found["phraselens_bytes"][(("dataset", "mined"),)] == size
    assert found["phraselens_run_ended_timestamp_seconds"] == {(): 1767225610}
    assert found["phraselens_in_use_timestamp_seconds"] == {(): 0}
