"""Settings of a file do what --set does, and what is wrong in it is named before a stage starts."""

import json
import shlex

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.runs import all_stages, chosen, overrides, quickstart, reprocess, settings_file
from beam_jobs.runs import stages as stages_lib
from model_code.models.fusion import train as fusion
from schemas.console import flags as flags_lib
from schemas.runs import command_line

OWN = ["--log=log", "--images=images", "--labels=labels", "--workdir=w"]

counts = st.integers(1, 10**6)
shares = st.floats(1e-9, 0.9).map(repr)
words = st.from_regex(r"[a-zäö'\" \\]{1,9}", fullmatch=True)
# What a file says of a flag, and what people would type.
number = st.one_of(counts.map(lambda n: (str(n), str(n))), shares.map(lambda n: (n, n)))
boolean = st.sampled_from([("true", "true"), ("false", "false")])
text = words.map(lambda word: (json.dumps(word, ensure_ascii=False), word))


def lists(items):
    pairs = st.lists(items, min_size=1, max_size=3)
    return pairs.map(
        lambda found: (f"[{', '.join(p[0] for p in found)}]", ",".join(p[1] for p in found))
    )


names = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)
stage_names = st.sampled_from([stage.name for stage in stages_lib.STAGES])
tables = st.dictionaries(
    stage_names,
    st.dictionaries(names, st.one_of(number, boolean, text, lists(number), lists(text))),
)


def configs(found, folder):
    """The config of settings in a file, and that of the same with --set."""
    lines, typed = [], []
    for stage, flags in found.items():
        lines += [f"[{stage}]", *(f"{name} = {toml}" for name, (toml, _) in flags.items())]
        typed += [f"{stage}.{name}={value}" for name, (_, value) in flags.items()]
    path = folder / "run.toml"
    path.write_text("\n".join(lines), encoding="utf-8")
    return (
        all_stages.Config(workdir="w", samples=True, config=str(path)),
        all_stages.Config(workdir="w", samples=True, set=",".join(typed)),
    )


@given(tables)
def test_a_file_gives_each_stage_the_command_that_set_gives(tmp_path_factory, found):
    ours, theirs = configs(found, tmp_path_factory.mktemp("config"))
    for stage in (stages_lib.SAMPLES, *stages_lib.STAGES):
        assert overrides.command_of(stage, ours) == overrides.command_of(stage, theirs)


def test_a_stage_has_the_settings_of_its_fingerprint_however_they_were_given(tmp_path):
    (tmp_path / "run.toml").write_text(
        "[train_fusion]\nepochs = 5_0\npool = true\nlearning_rates = [1e-3, 0.010]\nlayers = [64]"
    )
    given = {
        "config": str(tmp_path / "run.toml"),
        "set": "train_fusion.epochs=50,train_fusion.pool=true,"
        "train_fusion.learning_rates=1e-3,0.010,train_fusion.layers=64",
    }
    (stage,) = (stage for stage in stages_lib.STAGES if stage.name == "train_fusion")
    found = []
    for name, value in given.items():
        argv = overrides.command_of(stage, all_stages.Config(workdir="w", **{name: value}))[3:]
        parsed = command_line.parse(fusion.Config, "fusion", "", argv)
        found.append(flags_lib.settings(parsed))
    assert found[0] == found[1]
    assert (found[0]["epochs"], found[0]["learning_rates"]) == (50, ("1e-3", "0.010"))


def commands(capsys, run, *argv):
    """Stage → its flags by name, as --dry_run prints them."""
    assert run([*argv, "--dry_run"]) == 0, capsys.readouterr().err
    lines = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    return {
        words[2]: dict(word.removeprefix("--").split("=", 1) for word in words[3:])
        for words in lines
    }


def test_set_wins_over_the_file_which_wins_over_the_preset(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text("[train_text_generator]\nepochs = 7\npatience = 3")
    flags = [f"--config={path}", "--preset=quickstart", "--set=train_text_generator.patience=2"]
    found = commands(capsys, all_stages.run, *OWN, *flags)["model_code.models.text_generator.train"]
    assert (found["epochs"], found["patience"], found["batch_size"]) == ("7", "2", "32")


def test_the_table_of_the_run_stands_for_flags_of_the_command(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text(
        '[run]\nworkdir = "from_file"\nlog = "log"\nimages = ["a/**", "b"]\nlabels = "l"\n'
        'until = "mine_pairs"\nbeam = "--direct_num_workers=2"'
    )
    found = commands(capsys, all_stages.run, f"--config={path}")
    mined = {"log": "log", "images": "a/**,b", "labels": "l", "direct_num_workers": "2"}
    assert found == {"beam_jobs.mining.mine_pairs": mined | {"output": "from_file/mined"}}
    for argv in (["--log=typed", f"--config={path}"], [f"--config={path}", "--log=typed"]):
        found = commands(capsys, all_stages.run, *argv)
        assert found["beam_jobs.mining.mine_pairs"]["log"] == "typed"


def test_the_file_wins_over_what_quickstart_does_by_itself(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text('[run]\nworkdir = "mine"\n[make_samples]\nimages = 700')
    found = commands(capsys, quickstart.run, "--config", str(path))
    assert found["samples.make_samples"] == {
        "images": "700",
        "workers": "2",
        "output": "mine/samples",
    }
    assert commands(capsys, quickstart.run)["samples.make_samples"]["images"] == "4000"


def test_reprocess_takes_the_file_with_its_own_flags(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[run]\ndate = "2026-01-31"\nretrain = ["fusion"]\n[train_fusion]\nepochs = 3')
    config = overrides.parse(chosen.Config, "reprocess", "", [*OWN, f"--config={path}"])
    assert (config.date, config.retrain) == ("2026-01-31", ("fusion",))
    (stage,) = (stage for stage in chosen.stages_of(config) if stage.name == "train_fusion")
    assert overrides.flags_of(stage, config)["epochs"] == "3"


def test_a_run_keeps_the_settings_that_were_checked(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("[train_fusion]\nepochs = 3")
    config = overrides.parse(all_stages.Config, "all", "", [*OWN, f"--config={path}"])
    all_stages.check(config)
    path.unlink()
    assert config.settings("train_fusion") == {"epochs": "3"}


WRONG = [
    ("[train_fusoin]\nepochs = 3", "[train_fusoin]: expected run or one of", "mean train_fusion?"),
    ("[train.fusion]\nepochs = 3", "[train]: expected run or one of", ""),
    ("epochs = 3", "epochs = 3: expected flags below the names of their stages", "[train_fusion]"),
    ("[train_fusion]\nepochz = 3", "[train_fusion] epochz = 3: ", "Did you mean epochs?"),
    ("[mine_pairs]\nmax_users = 3", "[mine_pairs] max_users = 3: ", "Did you mean min_users?"),
    ('[run]\nworkdri = "w"', '[run] workdri = "w": ', "Did you mean workdir?"),
    ('[train_fusion]\nepochs = "3"', 'epochs = "3": expected a whole number', "epochs = 10"),
    ("[train_fusion]\nepochs = 3.5", "epochs = 3.5: expected a whole number", ""),
    ("[train_fusion]\nepochs = true", "epochs = true: expected a whole number", ""),
    ("[train_fusion]\nepochs = [3]", "epochs = [3]: expected a whole number", ""),
    ("[train_fusion]\nepochs = {a = 3}", "epochs = {…}: expected a whole number", ""),
    ("[train_fusion]\nepochs = 0", "[train_fusion] epochs = 0: expected a whole number, at", ""),
    ('[train_fusion]\npool = "yes"', 'pool = "yes": expected true or false', "pool = true"),
    ("[train_fusion]\nlearning_rates = 0.1", "learning_rates = 0.1: expected a list", "[0.1, 0.2]"),
    ('[train_fusion]\nlayers = ["64,32"]', "expected a list of texts without commas", ""),
    ("[embed_images]\ndiversity = 1", "diversity = 1: expected text in", 'diversity = "1"'),
    ('[embed_images]\ndiversity = "some"', 'diversity = "some": expected one of none', ""),
    ("[run]\nuntil = 2026-01-31", "until = 2026-01-31: expected text", 'until = "2026-01-31"'),
    ('[run]\nset = "a.b=c"', "[run] set = ", "tables of the stages"),
    ('[run]\npreset = "quick"', '[run] preset = "quick": expected one of', ""),
    ('[train_fusion]\noutput = "x"', "expected a setting of the stage", ""),
    ("[train_fusion]\nepochs = ", "expected TOML in UTF-8 (Invalid value", ""),
    ("[train_fusion]\nepochs = 3\nepochs = 4", "expected TOML in UTF-8 (Cannot overwrite", ""),
]


@pytest.mark.parametrize(("content", "says", "remedy"), WRONG)
def test_what_is_wrong_is_named_before_any_stage(content, says, remedy, tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text(content)
    assert all_stages.run([*OWN, f"--config={path}"]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {path}: ")
    assert says in printed.err
    assert remedy in printed.err
    assert len(printed.err.splitlines()) == 1
    assert printed.out == ""


def test_a_file_that_is_none_is_named(tmp_path, capsys):
    for path in (tmp_path / "missing.toml", tmp_path):
        assert all_stages.run([*OWN, f"--config={path}"]) == 2
        assert f"--config {path}: expected a file of settings" in capsys.readouterr().err
    (tmp_path / "latin.toml").write_bytes("[run]\nlog = 'ä'".encode("latin-1"))
    assert all_stages.run([*OWN, f"--config={tmp_path}/latin.toml"]) == 2
    assert "expected TOML in UTF-8" in capsys.readouterr().err


def test_a_wrong_value_of_the_command_line_is_not_said_to_be_the_files(tmp_path, capsys):
    path = tmp_path / "run.toml"
    path.write_text('[run]\npreset = "quickstart"\n[train_fusion]\nepochs = 3')
    assert reprocess.run([*OWN, "--date=2026-01-31", f"--config={path}", "--preset=quick"]) == 2
    assert "error: --preset=quick: expected" in capsys.readouterr().err
    assert all_stages.run([*OWN, f"--config={path}", "--set=train_fusion.epochs=0"]) == 2
    assert "error: train_fusion: --epochs=0: expected" in capsys.readouterr().err


def test_presets_are_files_with_settings_of_stages():
    assert settings_file.presets() == ("quickstart",)
    found = settings_file.preset("quickstart", overrides.NAMES)
    assert settings_file.RUN not in found
    assert found["prepare_pairs"].values["backbone"] == "small_resnet"
