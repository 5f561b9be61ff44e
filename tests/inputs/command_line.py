"""Paths, places and flags that people type, and what a command makes of them."""

import os
import subprocess
import sys
from pathlib import Path

from beam_jobs.frame import parsing
from beam_jobs.mining import forget, mine_log, mine_pairs
from beam_jobs.models import classify_images
from beam_jobs.runs import all_stages
from model_code.models.fusion import train as train_fusion
from samples import make_samples
from schemas.base import code_fingerprint
from schemas.maintenance import gc
from schemas.runs import command_line
from tests.inputs.case import Case, command, error_of
from tests.support.datasets import work_folder
from transforms.files.matching import match


def _log(folder: Path, *names: str) -> list[Path]:
    """Small logs below a folder."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("query,image\nblue car,p1\n", encoding="utf-8")
    return [folder / name for name in names]


def _read(typed: str, *names: str):
    """What --log takes of some files; in `typed`, FOLDER stands for where they lie."""

    def run(folder: Path) -> str:
        _log(folder, *names)
        flags = [f"--log={typed.replace('FOLDER', str(folder))}", f"--output={folder}/out"]
        found = parsing.parse("mine_log", mine_log.Config, "", flags)[0]
        paths = [file.path.removeprefix(f"{folder}/") for file in match("log", found.log)]
        return "read: " + ", ".join(paths)

    return run


def _refused(of, *flags: str):
    """The error of a command; in the flags, FOLDER stands for an empty folder."""

    def run(folder: Path) -> str:
        return error_of(command(of.run, folder, *(f.replace("FOLDER", str(folder)) for f in flags)))

    return run


def _output(of, typed: str):
    """What a command without other flags makes of an output."""

    def run(folder: Path) -> str:
        with_output = "workdir" if of in (all_stages, gc) else "output"
        needed = {
            all_stages: ["--samples"],
            gc: ["--keep=1"],
            train_fusion: ["--examples=e"],
            mine_log: ["--log=l"],
            make_samples: [],
        }[of]
        return error_of(command(of.run, folder, f"--{with_output}={typed}", *needed))

    return run


def _typed_home(folder: Path) -> str:
    """A path as a person wrote it within quotes."""
    here = Path.home()
    found = command_line.parse(gc.Config, "gc", "", ["--workdir=~/work", "--keep=1"]).workdir
    return "the folder work of your home" if found == f"{here}/work" else found


def _fingerprint(locale: str):
    """Whether the code has the same fingerprint under a locale."""
    modules = ["schemas.base.storage"]
    code = f"from schemas.base import code_fingerprint; print(code_fingerprint.of_code({modules}))"

    def run(_: Path) -> str:
        environment = os.environ | {"LC_ALL": locale, "PYTHONUTF8": "0"}
        environment |= {"PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(work_folder.ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
        same = done.stdout.decode().strip() == code_fingerprint.of_code(modules)
        return "the fingerprint of the code is the same" if same else done.stderr.decode()

    return run


_PATHS = "brackets and other real paths"
_NOT_SET = "A path that is empty often comes from a variable of the shell that is not set."
CASES = [
    Case(
        _PATHS,
        "`--log 'logs [1].csv'`, a file",
        "read: logs [1].csv",
        _read("FOLDER/logs [1].csv", "logs [1].csv", "logs 1.csv"),
    ),
    Case(
        _PATHS,
        "`--log 'logs [12].csv'`, a pattern",
        "read: logs 1.csv",
        _read("FOLDER/logs [12].csv", "logs [1].csv", "logs 1.csv"),
    ),
    Case(
        _PATHS,
        "`--log 'logs*.csv'`, also a file",
        "read: logs*.csv",
        _read("FOLDER/logs*.csv", "logs*.csv", "logs1.csv"),
    ),
    Case(
        _PATHS,
        "`--log '[2026] logs/*.csv'`, in a folder of that name",
        "read: [2026] logs/a.csv",
        _read("FOLDER/[2026] logs/*.csv", "[2026] logs/a.csv", "2 logs/b.csv"),
    ),
    Case(
        _PATHS,
        "`--log a,b.csv`, one file",
        "read: a,b.csv",
        _read("FOLDER/a,b.csv", "a,b.csv", "b.csv"),
    ),
    Case(
        _PATHS,
        "`--log a.csv,b.csv`, two files",
        "read: a.csv, b.csv",
        _read("FOLDER/a.csv,FOLDER/b.csv", "a.csv", "b.csv"),
    ),
    Case(
        _PATHS,
        '`--log "it\'s {new}/"`, a folder',
        "read: it's {new}/2026/a.csv, it's {new}/b.csv",
        _read("FOLDER/it's {new}/", "it's {new}/2026/a.csv", "it's {new}/b.csv"),
    ),
    Case(_PATHS, "`--workdir '~/work'`", "the folder work of your home", _typed_home),
    Case(
        _PATHS,
        "`--log 'nothing[1].csv'`",
        "refused: --log nothing[1].csv: expected at least one file. Check the path, and quote "
        "globs.",
        _refused(mine_log, "--log=FOLDER/nothing[1].csv", "--output=FOLDER/out"),
    ),
    Case(
        "empty output",
        "`./run.sh all --samples --workdir ''`",
        f"refused: --workdir '': expected the path of what is written. {_NOT_SET}",
        _output(all_stages, ""),
    ),
    Case(
        "empty output",
        "`./run.sh mine_log --log l --output '  '`",
        f"refused: --output '  ': expected the path of what is written. {_NOT_SET}",
        _output(mine_log, "  "),
    ),
    Case(
        "empty output",
        "`./run.sh gc --keep 1 --workdir /`",
        "refused: --workdir /: expected a folder below the root of the file system. Name one.",
        _output(gc, "/"),
    ),
    Case(
        "empty output",
        "`./run.sh make_samples --output file:///`",
        "refused: --output file:///: expected a folder below the root of the file system. "
        "Name one.",
        _output(make_samples, "file:///"),
    ),
    Case(
        "empty output",
        "`./run.sh train fusion --examples e --output /tmp/..`",
        "refused: --output /tmp/..: expected a folder below the root of the file system. Name one.",
        _output(train_fusion, "/tmp/.."),
    ),
    Case(
        "places",
        "`--log file:///…/my%20log.csv`",
        "read: my log.csv",
        _read("file://FOLDER/my%20log.csv", "my log.csv"),
    ),
    Case(
        "places",
        "`--log https://example.org/log.csv`",
        "refused: --log https://example.org/log.csv: expected a local path or gs://…, not "
        "https://. Bring it here first: download it with curl or wget.",
        _refused(mine_log, "--log=https://example.org/log.csv", "--output=FOLDER/out"),
    ),
    Case(
        "places",
        "`--images https://example.org/a.jpg`",
        "refused: --images https://example.org/a.jpg: expected a local path or gs://…, not "
        "https://. Bring it here first: download it with curl or wget. Images by URL: name a "
        "table of the URLs and add --fetch_http.",
        _refused(
            classify_images, "--images=https://example.org/a.jpg", "--model=m", "--output=FOLDER/o"
        ),
    ),
    Case(
        "places",
        "`--labels s3://bucket/labels.csv`",
        "refused: --labels s3://bucket/labels.csv: expected a local path or gs://…, not s3://. "
        "Bring it here first: copy it with `aws s3 cp`, or `gcloud storage cp` to gs://.",
        _refused(mine_pairs, "--labels=s3://bucket/labels.csv", "--output=FOLDER/o"),
    ),
    Case(
        "places",
        "`--days hdfs://host/days`",
        "refused: --days hdfs://host/days: expected a local path or gs://…, not hdfs://. Bring "
        "it here first: copy it with `hdfs dfs -get`, or `hadoop distcp` to gs://.",
        _refused(forget, "--days=hdfs://host/days", "--list=l"),
    ),
    Case(
        "places",
        r"`--output 'C:\data\out'`",
        r"refused: --output C:\data\out: expected a path of this machine, or gs://…, and no path "
        "of Windows. In WSL drives are below /mnt: /mnt/c/data/out",
        _refused(make_samples, r"--output=C:\data\out"),
    ),
    Case(
        "command line",
        "`./run.sh classify_images --image a.jpg …`",
        "refused: --image: expected only known flags. Did you mean --images?",
        _refused(classify_images, "--image", "a.jpg", "--model=m", "--output=o"),
    ),
    Case(
        "command line",
        "`./run.sh all --lgo l --outptu o …`",
        "refused: --lgo l --outptu o: expected only known flags. Did you mean --log for --lgo? "
        "See --help. Missing too: --workdir.",
        _refused(all_stages, "--lgo", "l", "--outptu", "o"),
    ),
    Case(
        "command line",
        "`--images *.jpg`, which the shell has replaced by names",
        "refused: b.jpg c.jpg: expected one value for each flag. Quote patterns, so that the "
        "shell leaves them as they are: --images 'images/*.jpg'",
        _refused(classify_images, "--model=m", "--output=o", "--images", "a.jpg", "b.jpg", "c.jpg"),
    ),
    Case(
        "command line",
        "`--min_users=-3`",
        "refused: --min_users=-3: expected a whole number, at least 1. Give another value.",
        _refused(mine_pairs, "--output=o", "--min_users=-3"),
    ),
    Case(
        "command line",
        "`--max_dead_fraction=5`",
        "refused: --max_dead_fraction=5: expected a number, at least 0 and at most 1. Give "
        "another value.",
        _refused(mine_log, "--output=o", "--max_dead_fraction=5"),
    ),
    Case(
        "command line",
        "`--image_key=stems`",
        "refused: --image_key=stems: expected one of stem, name, path. Did you mean stem?",
        _refused(mine_pairs, "--output=o", "--image_key=stems"),
    ),
    Case(
        "locale",
        "`LC_ALL=C`, which is ASCII",
        "the fingerprint of the code is the same",
        _fingerprint("C"),
    ),
    Case(
        "locale",
        "`LC_ALL=POSIX`",
        "the fingerprint of the code is the same",
        _fingerprint("POSIX"),
    ),
]
