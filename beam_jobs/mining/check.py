"""Says right after mining what later stages would find missing in it, and what they will do."""

import dataclasses
from collections.abc import Collection, Mapping

from model_code.metrics.evaluation import shortened
from model_code.metrics.labelling import Mined, count, task_of
from schemas.base.errors import PhraseLensError
from schemas.datasets.dataset import Dataset

FOR = {"train": "for training", "validation": "for validation", "test": "for testing"}
_STAGE_OF_NEEDS = (*["prepare_examples"] * 3, "prepare_pairs", "train_pixel_embedder")
_MORE = "Label more images, or name the split of some in a column 'split' of the label file"


@dataclasses.dataclass(frozen=True)
class Needs:
    """The settings of later stages that decide what mining must bring.

    Attributes:
      task, min_label_images, max_dead_fraction: of prepare_examples.
      min_query_images: of prepare_pairs.
      weights: of train_pixel_embedder.
    """

    task: str = "auto"
    min_label_images: int = 1
    max_dead_fraction: float = 0.05
    min_query_images: int = 1
    weights: str = ""

    @classmethod
    def of(cls, flags: Mapping[str, Mapping[str, str]]) -> "Needs":
        """Those of the stages' flags, stage → flag → value, and else the defaults."""
        values = {
            field.name: type(getattr(cls, field.name))(flags[run][field.name])
            for field, run in zip(dataclasses.fields(cls), _STAGE_OF_NEEDS, strict=True)
            if field.name in flags.get(run, {})
        }
        return cls(**values)


def check_dataset(root: str, later: Mapping[str, Mapping[str, str]]) -> None:
    """Prints the facts of a mined dataset that later stages go by.

    Args:
      root: the dataset.
      later: the flags of the stages that come, stage → flag → value.

    Raises:
      PhraseLensError: one of them could not work.
    """
    needs = Needs.of(later)
    found = count(Dataset(root), needs.min_label_images, needs.min_query_images)
    for line in facts(found, needs):
        print(line, flush=True)
    check(found, needs, later)


def facts(found: Mined, needs: Needs) -> list[str]:
    """What people should know of their labels before hours of training."""
    lines = [f"labels: {_counted(found)}, {len(found.labels):,} different ones"]
    if found.several:
        some = f"{found.several:,} of {_labelled(found):,} labelled images have several labels"
        if _task(found, needs) == "multi":
            lines.append(f"  {some}: the classifier gives any number of them (task multi, sigmoid)")
        else:
            lines.append(f"  {some} and are left out: the others have one (task single, softmax)")
    for split, lacks in (
        ("train", "cannot be learned"),
        ("test", "have no figures of their own in the report"),
    ):
        if names := found.without(split):
            some = f"{len(names):,} of {len(found.labels):,} labels have no image {FOR[split]}"
            lines.append(f"  {some} and {lacks}: {shortened(names)}")
    return lines


def check(found: Mined, needs: Needs, stages: Collection[str]) -> None:
    """Refuses what a later stage could not work with.

    Args:
      found: what was mined.
      needs: what the stages' settings ask of it.
      stages: those that come.

    Raises:
      PhraseLensError: it would fail, with what to label, mine or set.
    """
    if "prepare_pairs" in stages and not found.head_queries:
        raise PhraseLensError(
            "mined queries",
            f"one with at least {max(needs.min_query_images, 1)} training images",
            "Mine more of the log, or lower --set prepare_pairs.min_query_images=1 and "
            "mine_pairs.min_users, the people who must have typed a query.",
        )
    if "train_text_embedder" in stages and found.queries < 2:
        raise PhraseLensError(
            "mined queries",
            f"at least two with training images, found {found.queries}",
            "Mine more of the log, or lower --set mine_pairs.min_users=1.",
        )
    classes = found.classes
    if "train_pixel_embedder" in stages and not needs.weights and len(classes) < 2:
        raise PhraseLensError(*_too_few(found, needs))
    if "prepare_examples" in stages:
        if not classes:
            raise PhraseLensError(*_too_few(found, needs))
        lost = found.several if _task(found, needs) == "single" else 0
        if lost > needs.max_dead_fraction * sum(found.images.values()):
            raise PhraseLensError(
                "--set prepare_examples.task=single",
                f"one label an image, found several on {lost:,} of {_labelled(found):,}",
                "Leave it out, or give --set prepare_examples.task=multi.",
            )
    if "train_fusion" not in stages:
        return
    if len(classes) < 2:
        raise PhraseLensError(*_too_few(found, needs))
    for split, purpose in (("validation", "to choose settings by"), ("test", "for the figures")):
        # Test images of labels that training has not count as wrong; to choose by, they are none.
        if not (found.known if split == "validation" else found.labelled)[split]:
            raise PhraseLensError(
                f"labelled images {FOR[split]}",
                f"at least one {purpose}, found {_counted(found)}",
                f"{_MORE}, or give a larger --set mine_pairs.{split}_share=0.4.",
            )


def _too_few(found: Mined, needs: Needs) -> tuple[str, str, str]:
    names = f" ({shortened(found.classes)})" if found.classes else ""
    remedy = _MORE
    if not _labelled(found):
        remedy = "Check that the keys of --labels are those of images (--set mine_pairs.image_key)"
    if needs.min_label_images > 1:
        remedy = "Label more images, or lower --set prepare_examples.min_label_images"
    return (
        "labels of training images",
        f"at least two different ones, found {len(found.classes)}{names}; {_counted(found)}",
        f"{remedy}.",
    )


def _task(found: Mined, needs: Needs) -> str:
    return task_of(found.several, _labelled(found)) if needs.task == "auto" else needs.task


def _labelled(found: Mined) -> int:
    return sum(found.labelled.values())


def _counted(found: Mined) -> str:
    parts = ", ".join(f"{found.labelled[split]:,} {FOR[split]}" for split in FOR)
    return f"{_labelled(found):,} of {sum(found.images.values()):,} images labelled ({parts})"
