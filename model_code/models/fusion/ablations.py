"""Trains and measures pixel-only, text-only and fused alike: settings, budget, splits, seeds."""

import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from model_code.metrics import evaluation
from model_code.models.fusion import data, pooling
from model_code.models.fusion import fit as fusion
from model_code.models.fusion.data import ExampleReader
from model_code.models.fusion.family import FUSION
from model_code.models.fusion.network import Settings
from model_code.runtime import training
from schemas.base import fingerprint
from schemas.tables.mined import SPLITS


@dataclasses.dataclass(frozen=True)
class Trial:
    """One classifier trained with one setting from one seed.

    Attributes:
      settings: what was tried.
      folder: its checkpoints and logs.
      model: with its best weights.
      history: its epochs.
      pool: of a pool with others, the weight of each by name.
    """

    settings: Settings
    folder: str
    model: keras.Model
    history: training.History
    pool: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def best(self) -> Mapping[str, float]:
        """The metrics on the validation split that chose its epoch."""
        return self.history.epochs[self.history.best_epoch - 1]


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Trains and measures classifiers of one examples dataset, all alike.

    Attributes:
      reader: the examples.
      scratch: a local folder; each trial has one of its own in it.
      budget: the arguments of `fusion.train` that all trials share.
      labels_per_class: training examples of each label, another sample for each seed; 0 for all.
    """

    reader: ExampleReader
    scratch: str
    budget: Mapping[str, Any]
    labels_per_class: int = 0

    def reader_of(self, seed: int) -> ExampleReader:
        """What is trained on from a seed."""
        if not self.labels_per_class:
            return self.reader
        return _few_labels(self.reader, self.labels_per_class, seed)

    def train(self, name: str, settings: Settings, seed: int, label: str) -> Trial:
        identity = [name, dataclasses.asdict(settings), seed]
        folder = os.path.join(self.scratch, fingerprint.of_json(identity)[:12])
        model, history = fusion.train(
            f"{FUSION.systems[name]}, {label}",
            name,
            folder,
            self.reader_of(seed),
            settings,
            seed=seed,
            **self.budget,
        )
        return Trial(settings, folder, model, history)

    def tune(self, name: str, choices: Sequence[Settings], seed: int) -> tuple[Trial, list[Trial]]:
        """The trial with the best score on the validation split, the first of equals, and all."""
        trials = [
            self.train(name, settings, seed, f"setting {n} of {len(choices)}")
            for n, settings in enumerate(choices, start=1)
        ]
        return max(trials, key=lambda trial: trial.best["score"]), trials

    def pooled(self, trials: Mapping[str, Trial]) -> dict[str, Trial]:
        """The trials, of which "fused" is now a pool of all, with weights of the validation split.

        Alone it overrates phrases: those of its training images are better than those of new
        ones, because the text generator has seen what people typed for them.
        """
        logits = [
            fusion.predictor(pooling.scorer(trial.model), self.reader) for trial in trials.values()
        ]
        weights = pooling.fit_weights(
            np.stack([predict("validation") for predict in logits]),
            data.truth(self.reader, "validation"),
            self.reader.multi,
            np.array([name == "fused" for name in trials], float),
        )
        pool = dict(zip(trials, weights.tolist(), strict=True))
        model = pooling.pool({n: t.model for n, t in trials.items()}, pool, self.reader.multi)
        fused = dataclasses.replace(trials["fused"], model=model, pool=pool)
        return dict(trials) | {"fused": fused}

    def probabilities(self, trial: Trial, split: str) -> np.ndarray:
        """[rows, labels] float32."""
        return fusion.predictor(trial.model, self.reader)(split)


@functools.cache
def _few_labels(reader: ExampleReader, count: int, seed: int) -> ExampleReader:
    return reader.few_labels(count, seed)


def describe(
    trainer: Trainer,
    tuned: Mapping[str, Sequence[Trial]],
    chosen: Mapping[str, Trial],
    *,
    truth: Mapping[str, np.ndarray],
    tested: Mapping[str, np.ndarray],
    seed: int,
) -> dict[str, Any]:
    """The contents of evaluation.json, but for the seeds.

    Args:
      trainer: which trained them.
      tuned: classifier → all of its trials.
      chosen: classifier → the best of them.
      truth: "validation" and "test" → [rows, labels] bool.
      tested: classifier → [test rows, labels] float32 probabilities.
      seed: from which they were tuned.
    """
    reader = trainer.reader_of(seed)
    main = "map" if reader.multi else "top1"
    result: dict[str, Any] = {
        "labels": reader.labels,
        "task": "multi" if reader.multi else "single",
        "rows": {split: reader.rows(split) for split in SPLITS},
        "unknown_test_rows": int((~truth["test"].any(axis=1)).sum()),
    }
    result |= {key: {} for key in ("test", "validation", "tuning", "chosen", "curves")}
    for name, trials in tuned.items():
        result["test"][name] = evaluation.evaluate(
            tested[name], truth["test"], reader.multi
        ) | evaluation.evaluate_classes(tested[name], truth["test"], reader.multi, reader.labels)
        result["validation"][name] = evaluation.evaluate(
            trainer.probabilities(chosen[name], "validation"),
            truth["validation"],
            reader.multi,
        )
        result["tuning"][name] = [
            {
                "settings": dataclasses.asdict(trial.settings),
                "metric": trial.best[main],
                "nll": trial.best["nll"],
            }
            for trial in trials
        ]
        result["chosen"][name] = dataclasses.asdict(chosen[name].settings)
        result["curves"][name] = chosen[name].history.epochs
    result["pool"] = chosen["fused"].pool
    return result


def measure_seeds(
    trainer: Trainer,
    chosen: Mapping[str, Trial],
    truth: np.ndarray,
    first: Mapping[str, Any],
    seeds: Sequence[int],
) -> list[dict[str, Any]]:
    """The metrics on the test split of the chosen settings, from each seed.

    Args:
      trainer: trains them.
      chosen: classifier → its best trial, trained from the first seed.
      truth: [test rows, labels] bool.
      first: classifier → its metrics on the test split.
      seeds: the first one, and those to train from again.
    """
    found = []
    for seed in seeds:
        scores = first
        if seed != seeds[0]:
            again = {
                name: trainer.train(name, trial.settings, seed, f"seed {seed}")
                for name, trial in chosen.items()
            }
            if chosen["fused"].pool:
                again = trainer.pooled(again)
            scores = {
                name: evaluation.evaluate(
                    trainer.probabilities(trial, "test"), truth, trainer.reader.multi
                )
                for name, trial in again.items()
            }
        shown = {
            name: {metric: scores[name][metric] for metric in FUSION.metrics} for name in chosen
        }
        found.append({"seed": seed} | shown)
    return found


def write_models(folder: str, chosen: Mapping[str, Trial], description: Mapping[str, Any]) -> None:
    """Writes the contents of the table "model"."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, trial in chosen.items():
        logs = os.path.join(folder, "tensorboard", name)
        shutil.copytree(os.path.join(trial.folder, "tensorboard"), logs)
        trial.model.save(os.path.join(folder, f"{name}.keras"))
    for name, text in (
        ("config.json", json.dumps(description, indent=1, ensure_ascii=False)),
        ("history.json", chosen["fused"].history.to_json()),
    ):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as f:
            f.write(text)
