"""Writes the report: one HTML page that opens without a network, a model card and a data card.

Reads the datasets of a work folder through their manifests; mined and fusion must be there, the
others are reported when they are. Writes report.html, model_card.md and data_card.md.

  ./run.sh report --work work/quickstart --output work/quickstart/report
"""

import base64
import dataclasses
import hashlib
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from model_code.metrics.evaluation import decimals, shortened, unmeasured
from model_code.models import family
from model_code.models.fusion.family import FUSION
from model_code.report import charts as report_charts
from model_code.report import data as report_data
from model_code.report import effects as report_effects
from schemas.base import storage
from schemas.base.printable import printable
from schemas.console.flags import flag
from schemas.datasets import manifest
from schemas.datasets.dataset import Dataset
from schemas.runs import command, snapshots
from schemas.runs.run import Run

NAME = "report"
MODULES = ("model_code.report.pages",)
FILES = ("report.html", "model_card.md", "data_card.md")
REQUIRED = ("mined", "fusion")


@dataclasses.dataclass(frozen=True)
class Config:
    output: str = flag("Dataset to write.", role="output")
    work: str = flag("Work folder whose datasets are reported.", default=".", role="input")
    datasets: tuple[str, ...] = flag(
        "Datasets to report, in this order: NAME, or NAME=FOLDER for one that is not WORK/NAME; "
        "all of WORK if none are named.",
        default=(),
        role="input",
    )
    gallery: int = flag("Images to show for each kind of outcome.", default=8, minimum=0)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)


def folders(config: Config) -> dict[str, str]:
    """Name → folder of each dataset that must be there or is there."""
    given = config.datasets or (*REQUIRED, *snapshots.dataset_names(config.work))
    named = (text.partition("=") for text in given)
    paths = {name: path or storage.join(config.work, name) for name, _, path in named}
    return {
        name: path
        for name, path in paths.items()
        if name != NAME and (name in REQUIRED or manifest.read(path) is not None)
    }


def raw_inputs(config: Config) -> dict[str, str]:
    """What decides the page beside the datasets' contents: their runs, and the templates."""
    runs = {
        f"{name}_run": Dataset(path).manifest.fingerprint for name, path in folders(config).items()
    }
    texts = [(Path(__file__).parent / name).read_text(encoding="utf-8") for name in FILES]
    return runs | {"templates": hashlib.sha256("\0".join(texts).encode()).hexdigest()}


def environment() -> jinja2.Environment:
    """Templates that escape all they are given: queries hold whatever people typed."""
    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.filters |= {"percent": percent, "points": points, "cell": cell, "signed": signed}
    env.filters |= {"decimals": decimals, "sortable": sortable}
    env.filters["number"] = lambda value: f"{value:,.0f}"
    env.filters["megabytes"] = lambda value: f"{value / 1e6:,.1f} MB"
    return env


def percent(share: float) -> str:
    """A share in [0, 1] as people read it; a dash for NaN."""
    return "–" if math.isnan(share) else f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign."""
    return "–" if math.isnan(difference) else f"{100 * difference:+.1f}".replace("-", "−")


def sortable(value: float) -> str:
    """A figure as the page's script sorts it: what is a dash comes below all numbers."""
    return "-Infinity" if math.isnan(value) else str(value)


def signed(value: float) -> str:
    """A number with its sign, which a rounded 0 has not."""
    rounded = round(value, 2)
    return f"{rounded:+.2f}".replace("-", "−") if rounded else "0.00"


def cell(text: str) -> str:
    """Text that stays inside one cell of a Markdown table, or one line, and is no Markdown."""
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", printable(" ".join(str(text).split())))


def finding(difference: float, error: float) -> str:
    """What the comparison of fused and pixel-only says, no more than its error allows."""
    if math.isnan(error) or abs(difference) <= 2 * error:
        return "too small a difference for this test split to tell"
    return "the words help" if difference > 0 else "the words hurt"


def describe(datasets: Mapping[str, Dataset], per_verdict: int) -> dict:
    """All that the templates are given.

    Args:
      datasets: name → dataset, with those of `REQUIRED` at least.
      per_verdict: images in the gallery for each verdict.
    """
    evaluation = report_data.read_evaluation(datasets["fusion"])
    cases = report_data.read_cases(datasets["fusion"])
    gallery = report_data.gallery(cases, per_verdict)
    shown = [case for chosen in gallery.values() for case in chosen]
    images = report_data.read_images(datasets["mined"], [case.image_id for case in shown])
    difference, error = report_data.paired_difference(cases, "fused", "pixel")
    collection = report_data.read_collection(datasets["mined"])
    manifests = {name: dataset.manifest for name, dataset in datasets.items()}
    return {
        "ablations": FUSION.systems,
        "metrics": {name: of.title for name, of in FUSION.metrics.items()},
        "verdicts": report_data.VERDICTS,
        "evaluation": evaluation,
        "test": evaluation["test"],
        "difference": difference,
        "error": error,
        "finding": finding(difference, error),
        "gallery": gallery,
        "effects": report_effects.read_effects(datasets, shown),
        "counts": {v: sum(c.verdict == v for c in cases) for v in report_data.VERDICTS},
        "images": {key: report_data.data_uri(image) for key, image in images.items()},
        "confused": report_data.most_confused(
            evaluation["test"]["fused"].get("confusion", []), evaluation["labels"], 12
        ),
        "classes": _classes(evaluation["test"]),
        "collection": collection,
        "notes": [
            *unmeasured(evaluation),
            *_unlearned(list(collection.labels), evaluation["labels"]),
        ],
        "rows": {name: report_data.row_counts(m.counters) for name, m in manifests.items()},
        "others": {name: report_data.other_counters(m.counters) for name, m in manifests.items()},
        "dead": {name: report_data.dead_rows(dataset) for name, dataset in datasets.items()},
        "provenance": [report_data.provenance(name, m) for name, m in manifests.items()],
        "charts": _charts(datasets, evaluation),
        "families": [
            of for name, of in family.evaluations(datasets).items() if name != FUSION.name
        ],
    }


def _classes(test: Mapping) -> list[dict]:
    """The per-class table: the fused classifier's figures and both average precisions."""
    pixel = {row["label"]: row["average_precision"] for row in test["pixel"]["per_class"]}
    return [
        row | {"pixel_average_precision": pixel[row["label"]]} for row in test["fused"]["per_class"]
    ]


def _unlearned(collected: Sequence[str], learned: Sequence[str]) -> list[str]:
    """A sentence on the labels that the classifiers do not know, where there are some."""
    known = set(learned)
    unknown = [label for label in collected if label not in known]
    if not unknown:
        return []
    return [
        f"{len(unknown):,} of {len(collected):,} labels of the collection are unknown to the "
        "classifiers, as too few images, or none for training, have them: "
        f"{shortened(unknown)}."
    ]


def _charts(datasets: Mapping[str, Dataset], evaluation: Mapping) -> dict[str, str]:
    """Title → SVG of every chart that there is data for."""
    charts = {}
    for name, dataset in datasets.items():
        # That of the classifiers is three.
        history = report_data.read_history(dataset) if name != FUSION.name else None
        if history and history["epochs"]:
            title = name.replace("_", " ")
            charts[title] = report_charts.curves(name, history["epochs"], history["best_epoch"])
    histories = {name: evaluation["curves"].get(name, []) for name in FUSION.systems}
    if any(histories.values()):
        charts["classifiers"] = report_charts.classifier_curves(histories)
    test = evaluation["test"]
    charts["calibration"] = report_charts.calibration(
        {name: test[name]["calibration"] for name in FUSION.systems}
    )
    if "confusion" in test["fused"]:
        charts["confusion"] = report_charts.confusion(
            test["fused"]["confusion"], evaluation["labels"]
        )
    return charts


def render(context: Mapping) -> dict[str, str]:
    """File name → text of the page and the cards."""
    env = environment()
    source = env.loader.get_source(env, "report.html")[0] if env.loader else ""
    # The page runs its own script and no other, whatever a query holds.
    script = source.partition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {
        name: env.get_template(name).render(**context, script_hash=f"sha256-{digest}")
        for name in FILES
    }


def work(config: Config, planned: Run) -> int:
    datasets = {name: Dataset(path) for name, path in folders(config).items()}
    context = describe(datasets, config.gallery)
    local = planned.empty_folder("report")
    for name, text in render(context).items():
        Path(local, name).write_text(text, encoding="utf-8")
    planned.commit_files("report", local, {"datasets.out": len(datasets)})
    folder = planned.absolute(planned.folder("report"))
    for name in FILES:
        print(f"  {storage.join(folder, name)}")
    print(f"next: open {storage.join(folder, FILES[0])} in a browser")
    return 0


def run(argv: Sequence[str] | None = None) -> int:
    return command.main(
        NAME,
        Config,
        __doc__,
        argv,
        work=work,
        datasets=folders,
        modules=MODULES,
        raw_inputs=raw_inputs,
    )


if __name__ == "__main__":
    sys.exit(run())
