"""4 % of the rows are dead, then 6 %, and 5 % are allowed."""

import pytest

from beam_jobs import mine_pairs
from schemas import manifest

ROWS = 300


@pytest.mark.parametrize(("percent", "commits"), [(4, True), (6, False)], ids=["4 %", "6 %"])
def test_dead_rows_around_the_ceiling(percent, commits, tmp_path, capsys, figure):
    dead = ROWS * percent // 100
    rows = [f"q{n % 7},p{n},{'many' if n < dead else 1}" for n in range(ROWS)]
    (tmp_path / "log.csv").write_text("\n".join(["query,image,clicks", *rows]))
    output = str(tmp_path / "mined")
    argv = [f"--log={tmp_path / 'log.csv'}", f"--output={output}", "--max_dead_fraction=0.05"]
    assert mine_pairs.run(argv) == (0 if commits else 1)
    printed = capsys.readouterr().err
    if commits:
        found = manifest.Dataset(output)
        assert found.table("dead_letters")["reason"].to_pylist() == ["bad_clicks"] * dead
        assert manifest.verify(output) == []
    else:
        assert manifest.read(output) is None
        assert f"{dead / ROWS:.1%} of events died" in printed
        assert "expected at most 5.0%" in printed
    figure(f"{dead} of {ROWS} rows dead: {'committed' if commits else 'nothing committed'}")
