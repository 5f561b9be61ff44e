"""Most of a log is under one name, which stands for everybody."""

import re

from beam_jobs.mining import mine_log, mine_pairs
from schemas.base.fingerprint import hash64
from schemas.datasets import dataset, manifest

DAY = "2026-11-20"


def test_a_name_for_everybody_fails_the_job_until_it_is_named(tmp_path, capsys, figure):
    people = ["Visitor"] * 90 + [f"user {n}" for n in range(10)]
    rows = [
        f"red,p{n % 3},{user},{DAY}T10:{n // 60:02}:{n % 60:02}Z" for n, user in enumerate(people)
    ]
    log = tmp_path / "log.csv"
    log.write_text("\n".join(["query,image,user,timestamp", *rows]))
    day, mined = tmp_path / "days" / DAY, tmp_path / "mined"
    of_day = [f"--log={log}", f"--partition={DAY}", f"--output={day}", "--max_person_events=50"]
    of_log = [f"--log={log}", f"--output={mined}", "--max_person_events=50"]

    for job, argv, output in ((mine_log, of_day, day), (mine_pairs, of_log, mined)):
        assert job.run(argv) == 2
        error = capsys.readouterr().err
        assert re.search(r"90\.0% of the events \(90 of 100\) would be dropped as a robot's", error)
        assert f"user or session {hash64('Visitor') % 2**64:016x} (90 on a day)" in error
        assert "expected at most 25.0%" in error
        assert manifest.read(str(output)) is None

    assert mine_log.run([*of_day, "--max_robot_share=0.9"]) == 0
    assert mine_pairs.run([f"--days={day.parent}", f"--output={mined}"]) == 2
    assert f"most of them of day {DAY} (90)" in capsys.readouterr().err

    assert mine_pairs.run([*of_log, "--nobody=visitor", "--min_users=4"]) == 0
    counters = dataset.Dataset(str(mined)).manifest.counters
    assert counters["deliveries.out"] == 100
    (query,) = dataset.Dataset(str(mined)).table("queries").to_pylist()
    assert (query["clicks"], query["users"]) == (100, 10)
    figure("90 of 100 rows under one name: nothing committed; named as nobody: all kept")
