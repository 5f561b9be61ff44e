"""What the quality gate says where nothing changed, and where something went wrong with the data.

Takes a work folder that `quickstart` or `all --samples` made, promotes what is there, and for each
case below makes a snapshot by reprocess from other data, with the same models, and compares it:

  same       the same log, images and labels
  seed       another collection of the same kind, drawn from another seed: no real change
  half       every second image with its clicks
  languages  one in ten of the clicks for queries in ASCII (English, Spanish), all others
  labels     four in five labels shifted to the first one
  blurred    every image blurred (Gaussian, radius 2 pixels)
  dead       one image in twenty cut in half

  ./run.sh bench gate --workdir work/quickstart
  ./run.sh bench gate --workdir work/tiny --set 'embed_images.num_phrases=4'
"""

import dataclasses
import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from model_code.gate import command as gate
from schemas.base.errors import PhraseLensError
from schemas.console import launch
from schemas.console.flags import flag
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.runs import changes, command_line, pointer, snapshots

FIRST = "2026-01-01"
Tables = dict[str, pa.Table]


@dataclasses.dataclass(frozen=True)
class Config:
    workdir: str = flag("Local work folder with samples and every stage.", role="output")
    preset: str = flag("As all had it.", default="quickstart")
    set: str = flag("As all had it.", default="")
    cases: tuple[str, ...] = flag("Cases to run; none for all.", default=())


def same(tables: Tables, _: Tables) -> Tables:
    return tables


def seed(_: Tables, other: Tables) -> Tables:
    return other


def half(tables: Tables, _: Tables) -> Tables:
    keys = tables["images"]["key"].take(pa.array(range(0, len(tables["images"]), 2)))
    return {
        "click_log": tables["click_log"].filter(pc.is_in(tables["click_log"]["image"], keys)),
        "images": tables["images"].filter(pc.is_in(tables["images"]["key"], keys)),
        "labels": tables["labels"].filter(pc.is_in(tables["labels"]["key"], keys)),
    }


def languages(tables: Tables, _: Tables) -> Tables:
    """Without nine in ten of the clicks of those who type English, by what is spelt in ASCII."""
    log = tables["click_log"]
    kept = [i % 10 == 0 or not (q or "").isascii() for i, q in enumerate(log["query"].to_pylist())]
    return tables | {"click_log": log.filter(pa.array(kept))}


def labels(tables: Tables, _: Tables) -> Tables:
    table = tables["labels"]
    kept = pa.array([row % 5 == 0 for row in range(len(table))])
    return tables | {
        "labels": table.set_column(1, "label", pc.if_else(kept, table["label"], table["label"][0]))
    }


def _with_images(tables: Tables, change: Callable[[int, bytes], bytes]) -> Tables:
    images = tables["images"]
    changed = [change(i, data) for i, data in enumerate(images["image"].to_pylist())]
    return tables | {"images": images.set_column(1, "image", pa.array(changed, pa.binary()))}


def blurred(tables: Tables, _: Tables) -> Tables:
    def blur(_: int, data: bytes) -> bytes:
        buffer = io.BytesIO()
        try:
            picture = Image.open(io.BytesIO(data)).convert("RGB")
        except OSError:
            return data
        picture.filter(ImageFilter.GaussianBlur(2)).save(buffer, "PNG")
        return buffer.getvalue()

    return _with_images(tables, blur)


def dead(tables: Tables, _: Tables) -> Tables:
    return _with_images(tables, lambda i, data: data[: len(data) // 2] if i % 20 == 0 else data)


CASES = {f.__name__: f for f in (same, seed, half, languages, labels, blurred, dead)}


def read_samples(root: str) -> Tables:
    dataset = Dataset(root)
    return {name: dataset.table(name) for name in ("click_log", "images", "labels")}


def draw_others(config: Config) -> Tables:
    """Samples like those of the work folder, from another seed."""
    root = f"{config.workdir}/gate_cases/samples"
    drawn = Dataset(f"{config.workdir}/samples").manifest.config
    flags = {name: value for name, value in drawn.items() if name != "seed"}
    _run(
        "samples.make_samples",
        *(f"--{name}={value}" for name, value in flags.items()),
        f"--seed={drawn['seed'] + 1}",
        f"--output={root}",
    )
    return read_samples(root)


def _run(*module_and_flags: str) -> None:
    subprocess.run(launch.part([sys.executable, "-m", *module_and_flags]), check=True)


def measure(config: Config, name: str, tables: Tables, date: str) -> dict:
    """Makes a case's snapshot; returns what the gate says of it."""
    folder = Path(config.workdir, "gate_cases", name)
    folder.mkdir(parents=True, exist_ok=True)
    for table, rows in tables.items():
        pq.write_table(rows, folder / f"{table}.parquet")
    _run(
        "beam_jobs.runs.reprocess",
        f"--workdir={config.workdir}",
        f"--date={date}",
        f"--preset={config.preset}",
        f"--log={folder}/click_log.parquet",
        f"--images={folder}/images.parquet",
        f"--labels={folder}/labels.parquet",
        *([f"--set={config.set}"] if config.set else []),
    )
    gate.run([f"--workdir={config.workdir}", f"--date={date}", f"--against={FIRST}"])
    shutil.rmtree(folder)
    return json.loads(Path(config.workdir, snapshots.GATES, f"{date}.json").read_bytes())


def table(results: dict[str, dict]) -> str:
    """Markdown: a row for each check, a column a case; what is refused is bold."""
    found = {
        case: {check["name"]: check for check in result["checks"]}
        for case, result in results.items()
    }
    lines = [f"| check | chance | {' | '.join(found)} |", "|---|" + "---|" * (1 + len(found))]
    for name, check in next(iter(found.values())).items():
        cells = []
        for checks in found.values():
            figure = checks[name]["figure"]
            text = "–" if figure is None else f"{figure:.3f}"
            cells.append(f"**{text}**" if checks[name]["verdict"] == "refuse" else text)
        lines.append(f"| {name} | {check['chance']:.3f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def bench(config: Config) -> None:
    names = config.cases or tuple(CASES)
    if unknown := set(names) - set(CASES):
        raise PhraseLensError(", ".join(unknown), f"some of {', '.join(CASES)}", "Correct it.")
    work = config.workdir
    if FIRST not in snapshots.dates(work):
        runs = {n: Dataset(f"{work}/{n}").manifest.run_id for n in snapshots.dataset_names(work)}
        changes.write(work, FIRST, runs)
    # Limits are those of the defaults: what is in use is what all cases are compared with.
    if pointer.current(work) is None:
        changes.promote(work, FIRST)
    tables = read_samples(
        manifest.run_folder(f"{work}/samples", snapshots.read(work, FIRST).datasets["samples"])
    )
    others = draw_others(config) if "seed" in names else {}
    results = {
        name: measure(config, name, CASES[name](tables, others), f"2026-02-{n:02d}")
        for n, name in enumerate(names, 1)
    }
    print(f"\n{table(results)}")


if __name__ == "__main__":
    sys.exit(command_line.main(Config, "bench gate", __doc__, None, bench))
