"""Trains the fusion classifier and its two ablations, and evaluates them on the test split.

Reads the examples of prepare_examples. Pixel-only, text-only and fused are trained alike:
the same split, the same settings to choose from on the validation split, the same budget.
Fused then hears the other two beside itself, each weighed on the validation split (--pool), and
the test split is read once. With several seeds the chosen settings are trained again from each,
to tell a difference from chance.

Writes a dataset with the tables "model" (fused.keras, text.keras, pixel.keras, config.json,
history.json, tensorboard/), "evaluation" (evaluation.json, predictions.parquet), and of the
examples "transform_fn" and "metadata", so that the classifier is used with the normalisation
that it was trained with, whatever examples are made later.

  ./run.sh train fusion --examples work/examples --output work/fusion --seeds 5
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from model_code.metrics.classification import mean_and_error
from model_code.metrics.evaluation import (
    decimals,
    predictions_table,
    unmeasured,
    with_nan,
    without_nan,
)
from model_code.models import family
from model_code.models.fusion.family import FUSION
from model_code.runtime.settings import training_device
from schemas.base import fingerprint, storage
from schemas.base.errors import PhraseLensError
from schemas.console import program
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.runs import command
from schemas.runs.run import Run
from schemas.tables.mined import SPLITS

MODULES = ("model_code.models.fusion.train",)


@dataclasses.dataclass(frozen=True)
class Config:
    examples: str = flag("Dataset of beam_jobs.models.prepare_examples.", role="input")
    output: str = flag("Dataset to write.", role="output")
    layers: tuple[str, ...] = flag(
        "Hidden layers to try: widths joined by '-', or linear.",
        default=("512-256", "linear"),
        essential=True,
    )
    learning_rates: tuple[str, ...] = flag(
        "Of AdamW, to try.", default=("0.001",), numbers=float, above=0
    )
    dropouts: tuple[str, ...] = flag(
        "Shares of inputs and hidden units dropped, to try.",
        default=("0.5",),
        numbers=float,
        minimum=0,
        below=1,
    )
    weight_decays: tuple[str, ...] = flag(
        "Times the learning rate: share of a weight that a step takes away, to try.",
        default=("0.1", "3"),
        numbers=float,
        minimum=0,
    )
    vector_dropouts: tuple[str, ...] = flag(
        "Shares of examples whose text, and whose pixels, are dropped as a whole, to try.",
        default=("0",),
        numbers=float,
        minimum=0,
        below=1,
    )
    pixel_scales: tuple[str, ...] = flag(
        "What the numbers of pixels are multiplied by, to try: less than 1 trusts text more.",
        default=("1", "0.3"),
        numbers=float,
        minimum=0,
    )
    labels_per_class: int = flag(
        "Train on so few examples of each label, others from each seed; 0 for all.",
        default=0,
        minimum=0,
    )
    pool: bool = flag(
        "Let fused hear pixel-only and text-only, weighed on the validation split.", default=True
    )
    class_weights: bool = flag("Let rare labels count as much as frequent ones.", default=False)
    epochs: int = flag("At most this many epochs.", default=40, minimum=1, essential=True)
    patience: int = flag("Epochs without a better one before stopping.", default=6, minimum=1)
    min_steps: int = flag(
        "An epoch goes over few examples again until it has about this many batches.",
        default=30,
        minimum=0,
    )
    batch_size: int = flag("Examples in a batch.", default=128, minimum=1)
    seed: int = flag("Of weights, order and dropout.", default=0, minimum=0, maximum=2**32 - 1)
    seeds: int = flag("Train the chosen settings from this many seeds.", default=1, minimum=1)
    cache_bytes: int = flag(
        "A split that is not larger is kept in memory.", default=2 * 10**9, minimum=0
    )
    device: str = training_device()
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)

    def __post_init__(self):
        """Raises PhraseLensError where a setting to try is none."""
        grid(self)


def grid(config: Config) -> list[tuple]:
    """What to try: the fields of `network.Settings`, in their order.

    Raises:
      PhraseLensError: a flag holds nothing to try, or --layers what are no layers.
    """
    layers = [_widths(text) for text in config.layers]
    numbers = {
        "learning_rates": config.learning_rates,
        "dropouts": config.dropouts,
        "weight_decays": config.weight_decays,
        "vector_dropouts": config.vector_dropouts,
        "pixel_scales": config.pixel_scales,
    }
    for name, texts in {"layers": config.layers, **numbers}.items():
        if not texts:
            raise PhraseLensError(f"--{name}=", "one to try, or more", "Leave the flag out.")
    return list(
        itertools.product(layers, *([float(t) for t in texts] for texts in numbers.values()))
    )


def _widths(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"linear|[1-9]\d*(-[1-9]\d*)*", text):
        raise PhraseLensError(f"--layers={text}", "widths joined by '-', or linear", "Correct it.")
    return () if text == "linear" else tuple(int(width) for width in text.split("-"))


def _work(config: Config, run: Run) -> int:
    from model_code.models.fusion import ablations, data, losses, network
    from model_code.models.fusion.data import open_examples
    from model_code.models.fusion.family import INPUTS
    from model_code.runtime.devices import open_device

    open_device(config.device)
    choices = [network.Settings(*choice) for choice in grid(config)]
    with open_examples(config.examples, config.batch_size, config.cache_bytes) as reader:
        FUSION.check_reads(reader.vectors, config.examples)
        reader.require(SPLITS)
        truth = {split: data.truth(reader, split) for split in ("validation", "test")}
        if not truth["validation"].any():
            raise PhraseLensError(
                f"split 'validation' of {config.examples}",
                "an example with a label that a training example has",
                "Label more images: without one, no setting is better than another.",
            )
        budget = {
            "epochs": config.epochs,
            "patience": config.patience,
            "min_steps": config.min_steps,
            "class_weights": losses.class_weights(reader, config.class_weights),
        }
        trainer = ablations.Trainer(reader, run.scratch, budget, config.labels_per_class)
        tuned = {name: trainer.tune(name, choices, config.seed) for name in INPUTS}
        chosen = {name: trial for name, (trial, _) in tuned.items()}
        if config.pool:
            chosen = trainer.pooled(chosen)
        tested = {name: trainer.probabilities(t, "test") for name, t in chosen.items()}
        trials = {name: tried for name, (_, tried) in tuned.items()}
        result = ablations.describe(
            trainer, trials, chosen, truth=truth, tested=tested, seed=config.seed
        )
        seeds = range(config.seed, config.seed + config.seeds)
        result["seeds"] = ablations.measure_seeds(
            trainer, chosen, truth["test"], result["test"], seeds
        )
        predictions = predictions_table(*reader.names("test"), truth["test"], reader.labels, tested)
    description = {
        "labels": result["labels"],
        "task": result["task"],
        "vectors": reader.vectors,
        "settings": result["chosen"],
        "pool": result["pool"],
    }
    _commit(
        config, run, chosen=chosen, description=description, result=result, predictions=predictions
    )
    print("\n".join(report_lines(result)))
    following = program.command(
        "export_model",
        generator=program.beside(config.output, "text_generator"),
        pixel_embedder=program.beside(config.output, "pixel_embedder"),
        phrases=program.beside(config.output, "phrases"),
        fusion=config.output,
        output=program.beside(config.output, "model"),
    )
    print(f"next: {following}")
    return 0


def _commit(
    config: Config,
    run: Run,
    *,
    chosen: Mapping[str, Any],
    description: Mapping[str, Any],
    result: Mapping[str, Any],
    predictions: Any,
) -> None:
    """Writes and commits the tables.

    Args:
      config, run: of the run.
      chosen: classifier → its trial.
      description: what tells the models from others.
      result: the contents of evaluation.json.
      predictions: the contents of predictions.parquet, see `predictions_table`.
    """
    import pyarrow.parquet as pq

    from model_code.models.fusion import ablations

    local = {table: os.path.join(run.scratch, table) for table in ("model", "evaluation")}
    ablations.write_models(local["model"], chosen, description)
    figures = {name: {m: of[m] for m in FUSION.metrics} for name, of in result["test"].items()}
    evaluation = family.Evaluation(FUSION, result["rows"]["test"], figures)
    family.write(local["evaluation"], evaluation)
    pq.write_table(predictions, os.path.join(local["evaluation"], "predictions.parquet"))
    with open(os.path.join(local["evaluation"], "evaluation.json"), "w", encoding="utf-8") as f:
        json.dump(without_nan(result), f, indent=1, ensure_ascii=False)
    weights = [np.asarray(v) for trial in chosen.values() for v in trial.model.get_weights()]
    counters = {f"examples_{split}.rows": rows for split, rows in result["rows"].items()}
    # Weights mean nothing without the normalisation that the examples were made with.
    identity = fingerprint.of_arrays({**description, **run.inputs}, weights)
    with contextlib.ExitStack() as stack:
        for table in ("transform_fn", "metadata"):
            folder = Dataset(config.examples).folder(table)
            local[table] = stack.enter_context(storage.local_copy(folder))
        run.commit_tables(local, counters, identity)


def report_lines(result: Mapping[str, Any]) -> list[str]:
    """The ablation table on the test split, with several seeds the differences, and notes.

    Args:
      result: the contents of evaluation.json; null or NaN where a metric has no value.
    """
    result = with_nan(result)
    rows, seeds = result["rows"], result["seeds"]
    lines = [
        f"{len(result['labels'])} labels; {rows['train']:,} train, {rows['validation']:,} "
        f"validation, {rows['test']:,} test examples",
        f"{'test split':<12}"
        + "".join(f"{metric.title:>16}" for metric in FUSION.metrics.values()),
    ]
    for name, title in FUSION.systems.items():
        cells = [[seed[name][metric] for seed in seeds] for metric in FUSION.metrics]
        lines.append(f"{title:<12}" + "".join(f"{_cell(values):>16}" for values in cells))
    if len(seeds) > 1:
        gains = [
            [s["fused"][metric] - s["pixel"][metric] for s in seeds] for metric in FUSION.metrics
        ]
        line = "".join(f"{_cell(values, '+'):>16}" for values in gains)
        lines += [f"{'gain':<12}{line}", f"mean ± standard error over {len(seeds)} seeds"]
    return [*lines, *unmeasured(result)]


def _cell(values: Sequence[float], sign: str = "") -> str:
    mean, error = mean_and_error(np.array(values))
    text = decimals(mean, sign)
    return text if len(values) == 1 else f"{text} ± {decimals(error)}"


def run(argv: Sequence[str] | None = None) -> int:
    return command.main(
        "train_fusion",
        Config,
        __doc__,
        argv,
        work=_work,
        datasets=lambda config: {"examples": config.examples},
        modules=MODULES,
    )


if __name__ == "__main__":
    sys.exit(run())
