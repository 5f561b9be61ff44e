"""The report's charts as SVG text: the same bytes every time, in the page's own text colour."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from model_code.models.fusion.family import FUSION

# Legible on white and on black.
COLOURS = {"pixel": "#e08a2c", "text": "#5b8def", "fused": "#1fa97c"}
CYCLE = ("#1fa97c", "#5b8def", "#e08a2c", "#c65fb5", "#8a8f98")
# Text is drawn in this colour, and the page puts its own in its place.
_INK = "#010203"
_MAX_TICKS = 40
_MAX_CHARS = 24
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: searchable, in the reader's fonts
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,  # a label with dollar signs is no formula
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 9,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def _svg(name: str, figure: Figure) -> str:
    """The figure as an <svg> element; `name` keeps its ids apart from other charts'."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name}), warnings.catch_warnings():
        # The browser has the fonts of every script, whatever matplotlib has.
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")


def curves(name: str, epochs: Sequence[Mapping[str, float]], best_epoch: int) -> str:
    """The losses of a training run, and beside them the metrics on held-out rows.

    Args:
      name: of the chart.
      epochs: a mapping an epoch: `epoch`, `loss` and metrics.
      best_epoch: the epoch that was kept, marked by a line.
    """
    keys = [key for key in epochs[0] if key != "epoch"]
    losses = [key for key in keys if "loss" in key]
    metrics = [key for key in keys if key not in losses]
    x = [row["epoch"] for row in epochs]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 2.4))
        left, right = figure.subplots(1, 2)
        for axes, shown, title in ((left, losses, "loss"), (right, metrics, "held-out rows")):
            for colour, key in zip(CYCLE, shown, strict=False):
                axes.plot(x, [row[key] for row in epochs], color=colour, marker=".", label=key)
            axes.set_title(title)
            if shown:
                axes.legend(fontsize=8)
        for axes in (left, right):
            axes.axvline(best_epoch, color=_INK, linewidth=0.6, linestyle=":")
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
        return _svg(name, figure)


def classifier_curves(histories: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The training runs of the three classifiers, a panel for each value that they all logged."""
    shown = [h for h in histories.values() if h]
    keys = [k for k in shown[0][0] if k != "epoch" and all(k in h[0] for h in shown)][:3]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.2, 2.4))
        panels = figure.subplots(1, len(keys), squeeze=False)[0]
        for axes, key in zip(panels, keys, strict=True):
            for name, history in histories.items():
                x = [row["epoch"] for row in history]
                y = [row[key] for row in history]
                axes.plot(x, y, color=COLOURS[name], label=FUSION.systems[name])
            axes.set_title("training loss" if key == "loss" else key)
            axes.set_xlabel("epoch")
            axes.xaxis.get_major_locator().set_params(integer=True)
        panels[-1].legend(fontsize=8)
        return _svg("classifier_curves", figure)


def calibration(reliability: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """How often predictions of a confidence come true, for each classifier.

    Args:
      reliability: classifier → bins with `confidence`, `accuracy` (both means) and `rows`.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(3.6, 3.2))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=_INK, linewidth=0.6, linestyle=":")
        for name, bins in reliability.items():
            x = [b["confidence"] for b in bins]
            y = [b["accuracy"] for b in bins]
            rows = np.array([b["rows"] for b in bins])
            axes.plot(x, y, color=COLOURS[name], linewidth=0.8, label=FUSION.systems[name])
            axes.scatter(x, y, 60 * np.sqrt(rows / rows.max()), COLOURS[name], clip_on=False)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share that is right")
        axes.legend(fontsize=8)
        return _svg("calibration", figure)


def confusion(counts: Sequence[Sequence[int]], labels: Sequence[str]) -> str:
    """The share of each true label's rows (down) that went to each predicted label (across).

    Args:
      counts: [labels, labels] rows by true and predicted label.
      labels: named beside the picture while there are at most 40.
    """
    array = np.array(counts, float)
    shares = array / np.maximum(array.sum(1, keepdims=True), 1)
    clear_to_green = LinearSegmentedColormap.from_list(
        "share", [(0.12, 0.66, 0.49, 0.0), (0.12, 0.66, 0.49, 1.0)]
    )
    named = len(labels) <= _MAX_TICKS
    side = min(7.0, 2.2 + 0.2 * len(labels)) if named else 5.5
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(side, side))
        axes = figure.subplots()
        axes.imshow(shares, cmap=clear_to_green, vmin=0, vmax=1, interpolation="nearest")
        axes.set(xlabel="predicted", ylabel="true")
        axes.spines[["top", "right"]].set_visible(True)
        if named:
            short = [x if len(x) <= _MAX_CHARS else f"{x[: _MAX_CHARS - 1]}…" for x in labels]
            axes.set_xticks(range(len(labels)), short, rotation=90, fontsize=7)
            axes.set_yticks(range(len(labels)), short, fontsize=7)
        else:
            axes.set(xticks=[], yticks=[])
        return _svg("confusion", figure)
