"""What each phrase did to a prediction, for the report's gallery."""

import dataclasses
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from model_code.report.data import Case
from schemas.datasets.dataset import Dataset

COLUMNS = ["image_id", "labels", "phrases", "phrase_effects"]


@dataclasses.dataclass(frozen=True)
class Effects:
    """What the phrases of an image did to the logit of one label.

    Attributes:
      label: the label that the fused classifier chose.
      phrases: (phrase, by how much it moved the logit, that as a share of the largest move in
        the gallery in [-1, 1]), nearest phrase first.
    """

    label: str
    phrases: tuple[tuple[str, float, float], ...]


def read_effects(datasets: Mapping[str, Dataset], cases: Sequence[Case]) -> dict[str, Effects]:
    """The effects of the phrases of some cases, as far as the predictions tell.

    Args:
      datasets: name → dataset; "fusion", "model" and "predictions" are used.
      cases: the images to show.

    Returns:
      Image id → effects; {} when the predictions are those of another classifier.
    """
    if not _belong_together(datasets):
        return {}
    wanted = {case.image_id: case.predictions["fused"][0][0] for case in cases}
    ids = pa.array(wanted, pa.string())
    moves: dict[str, dict[str, float]] = {}
    for batch in datasets["predictions"].batches("predictions", COLUMNS):
        for row in batch.filter(pc.is_in(batch["image_id"], value_set=ids)).to_pylist():
            label = wanted[row["image_id"]]
            if label in row["labels"]:
                values = row["phrase_effects"][row["labels"].index(label)]
                moves[row["image_id"]] = dict(zip(row["phrases"], values, strict=True))
    largest = max((abs(v) for values in moves.values() for v in values.values()), default=0) or 1
    return {
        image_id: Effects(wanted[image_id], tuple((p, v, v / largest) for p, v in values.items()))
        for image_id, values in moves.items()
    }


def _belong_together(datasets: Mapping[str, Dataset]) -> bool:
    """Whether the predictions are of the exported model, and that of the classifier."""
    chain = [datasets[name] for name in ("fusion", "model", "predictions") if name in datasets]
    return len(chain) == 3 and all(
        made.manifest.content_hash == user.manifest.inputs.get(name)
        for name, made, user in zip(("fusion", "model"), chain, chain[1:], strict=False)
    )
