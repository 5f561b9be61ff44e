"""Coverage-guided fuzzing (atheris) of log parsing and image decoding.

The time is shared by the targets of tests/fuzz/targets.py. What was found to reach new code is
kept in work/fuzz/TARGET/corpus for the next time; an input that crashes in work/fuzz/TARGET.

  ./run.sh test --fuzz 3600
  python -m tests.fuzz --target images work/fuzz/images/crash-…    runs one input again
"""

import argparse
import hashlib
import os
import subprocess
import sys
import time
import warnings
from pathlib import Path

NAMES = ("layouts", "sniffing", "compressed", "tables", "image_units", "images")
WORK = Path("work/fuzz")
MAX_BYTES = 1 << 16
RSS_MIB = 6144  # beside TensorFlow's protos and Arrow; a bomb wants more
INPUT_SECONDS = 60


def fuzz_all(seconds: int) -> int:
    """Fuzzes each target in a process of its own; the number of those that crashed."""
    crashed = []
    for name in NAMES:
        share = max(1, seconds // len(NAMES))
        folder = WORK / name
        (folder / "corpus").mkdir(parents=True, exist_ok=True)
        before = set(folder.iterdir())
        print(f"fuzz {name}: {share} s", flush=True)
        start = time.monotonic()
        flags = [f"-max_total_time={share}", f"-artifact_prefix={folder}/", "-print_final_stats=1"]
        flags += [f"-max_len={MAX_BYTES}", f"-rss_limit_mb={RSS_MIB}", f"-timeout={INPUT_SECONDS}"]
        command = [sys.executable, "-m", "tests.fuzz", "--target", name]
        with open(folder / "log", "w", encoding="utf-8") as log:
            status = subprocess.call([*command, *flags, str(folder / "corpus")], stderr=log)
        ran = _figure(folder / "log", "number_of_executed_units")
        took = time.monotonic() - start
        print(f"fuzz {name}: {ran} inputs in {took:.0f} s, exit status {status}", flush=True)
        if status:
            crashed.append(name)
            for path in sorted(set(folder.iterdir()) - before):
                print(f"  {path}")
            print(f"  what happened: the end of {folder / 'log'}")
    if crashed:
        print(f"error: {', '.join(crashed)} crashed", file=sys.stderr)
    return len(crashed)


def _figure(log: Path, name: str) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.split()[-1] for line in lines if f"stat::{name}" in line), "?")


def fuzz_one(name: str, flags: list[str]) -> None:
    """Runs libFuzzer on one target; does not come back."""
    import atheris

    with atheris.instrument_imports(include=["transforms", "schemas", "model_code.text.normalise"]):
        from tests.fuzz.targets import TARGETS
    warnings.simplefilter("ignore")  # of PIL, about the damage
    target = TARGETS[name]()
    for folder in (Path(flag) for flag in flags if not flag.startswith("-")):
        if folder.is_dir():
            for seed in target.seeds:
                (folder / hashlib.sha256(seed).hexdigest()[:32]).write_bytes(seed)

    def run(data: bytes) -> None:
        if data:
            target.run(data)

    atheris.Setup([sys.argv[0], *flags], run)
    atheris.Fuzz()


def main() -> int:
    parser = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="in all")
    parser.add_argument("--target", choices=NAMES, help="one target; other flags are libFuzzer's")
    args, flags = parser.parse_known_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    if args.target is None:
        return 1 if fuzz_all(args.seconds) else 0
    fuzz_one(args.target, flags)
    return 0


if __name__ == "__main__":
    sys.exit(main())
