"""Settings and labels that cannot work, and labels of few images: what `all` says, and when."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from beam_jobs.mining import check as mined_check
from beam_jobs.runs import all_stages, stages
from model_code.metrics import evaluation
from schemas.base.errors import PhraseLensError
from tests.inputs.case import Case, command, error_of
from tests.support.datasets import mined_dataset

ALL: list[str] = [step.name for step in stages.STAGES]
Images = Sequence[tuple[str, Sequence[str]]]
# Five images of each of two classes: three train, one is for validation and one for testing.
SPLITS = ("train", "train", "train", "validation", "test")
GOOD: Images = [(split, [label]) for split in SPLITS for label in ("cat", "dog")]


def _flags(*flags: str) -> Callable[[Path], str]:
    """What `all` says of flags before its first stage."""
    own = ("--log=log.csv", "--images=images", "--labels=labels.csv", "--workdir=work")
    return lambda folder: error_of(command(all_stages.run, folder, *own, *flags))


def _mined(images: Images, *, queries: int = 2, **settings: str) -> Callable[[Path], str]:
    """What `all` says after mining such images, with settings of prepare_examples."""

    def run(folder: Path) -> str:
        rows = [
            {"image_id": f"{n:032x}", "keys": [str(n)], "split": split, "labels": list(labels)}
            | {"width": 8, "height": 8, "image": b""}
            for n, (split, labels) in enumerate(images)
        ]
        of_queries = [{"query_id": n, "query": str(n), "train_images": 1} for n in range(queries)]
        root = mined_dataset.write_mined(str(folder / "mined"), rows, [], of_queries, []).root
        later = {stage: {} for stage in ALL} | {"prepare_examples": settings}
        try:
            found = command(lambda _: mined_check.check_dataset(root, later) or 0, folder)
        except PhraseLensError as error:
            return f"refused after mining: {error}"
        return "; ".join(line.strip() for line in found[1].splitlines()[1:]) or "trained"

    return run


def _tested(labels: Sequence[int], guesses: Sequence[int], classes: int) -> Callable[[Path], str]:
    """What the report says below its table of test images with such labels (−1: unknown)."""

    def run(_: Path) -> str:
        truth = np.array([[label == c for c in range(classes)] for label in labels])
        probabilities = np.eye(classes)[list(guesses)]
        names = [f"class {c}" for c in range(classes)]
        found = evaluation.evaluate(probabilities, truth, multi=False)
        found |= evaluation.evaluate_classes(probabilities, truth, False, names)
        result = {
            "test": {"fused": found},
            "rows": {"test": len(labels)},
            "unknown_test_rows": int((~truth.any(axis=1)).sum()),
        }
        return " ".join(evaluation.unmeasured(result)) or "all figures exist"

    return run


def _without(split: str) -> Images:
    return [row for row in GOOD if row[0] != split]


CASES = [
    Case(
        "late errors",
        "`--set train_fusion.epochz=3`",
        "refused: train_fusion: --epochz=3: expected only known flags. Did you mean --epochs?",
        _flags("--set=train_fusion.epochz=3"),
    ),
    Case(
        "late errors",
        "`--set train_fusion.epochs=many`",
        "refused: train_fusion: --epochs=many: expected a whole number, at least 1. Give another "
        "value.",
        _flags("--set=train_fusion.epochs=many"),
    ),
    Case(
        "late errors",
        "`--set train_fusoin.epochs=3`",
        "refused: --set train_fusoin.epochs=3: expected one of the stages make_samples, "
        "forget, mine_pairs, prepare_pairs, train_text_generator, train_text_embedder, "
        "embed_phrases, train_pixel_embedder, embed_images, prepare_examples, "
        "train_fusion, export_model, classify_images, report. Did you mean train_fusion?",
        _flags("--set=train_fusoin.epochs=3"),
    ),
    Case(
        "late errors",
        "`--set train_fusion.dropouts=0.1,much`",
        "refused: train_fusion: --dropouts=much: expected a number, at least 0 and below 1. Give "
        "another value.",
        _flags("--set=train_fusion.dropouts=0.1,much"),
    ),
    Case(
        "late errors",
        "`--set train_text_generator.candidates=best`",
        "refused: train_text_generator: --candidates=best: expected one of log_uniform, "
        "frequency, mixed. See --help.",
        _flags("--set=train_text_generator.candidates=best"),
    ),
    Case(
        "late errors",
        "`--set train_pixel_embedder.backbone=resnet5`",
        "refused: train_pixel_embedder: --backbone=resnet5: expected one of resnet101, "
        "resnet50, mobilenet, densenet121, convnext_base, small_resnet. Did you mean resnet50?",
        _flags("--set=train_pixel_embedder.backbone=resnet5"),
    ),
    Case(
        "late errors",
        "`--set embed_images.num_phrases=0`",
        "refused: embed_images: --num_phrases=0: expected a whole number, at least 1. Give another "
        "value.",
        _flags("--set=embed_images.num_phrases=0"),
    ),
    Case(
        "late errors",
        "`--set train_fusion.output=elsewhere`",
        "refused: --set train_fusion.output=elsewhere: expected a setting of the stage, "
        "not --output. Leave it out: --workdir says where all stages write, --dry_run "
        "runs none.",
        _flags("--set=train_fusion.output=elsewhere"),
    ),
    Case(
        "late errors",
        "`--beam=--nmu_workers=3`",
        "refused: mine_pairs: --nmu_workers=3: expected only known flags. Did you mean "
        "--num_workers?",
        _flags("--beam=--nmu_workers=3"),
    ),
    Case(
        "late errors",
        "`--until=train_fusio`",
        "refused: --until=train_fusio: expected one of mine_pairs, prepare_pairs, "
        "train_text_generator, train_text_embedder, embed_phrases, train_pixel_embedder, "
        "embed_images, prepare_examples, train_fusion, export_model, classify_images, "
        "report. Did you mean train_fusion?",
        _flags("--until=train_fusio"),
    ),
    Case(
        "late errors",
        "all images of one class",
        "refused after mining: labels of training images: expected at least two different"
        " ones, found 1 (cat); 10 of 10 images labelled (6 for training, 2 for "
        "validation, 2 for testing). Label more images, or name the split of some in a "
        "column 'split' of the label file.",
        _mined([(s, ["cat"]) for s, _ in GOOD]),
    ),
    Case(
        "late errors",
        "no labelled image",
        "refused after mining: labels of training images: expected at least two different"
        " ones, found 0; 0 of 10 images labelled (0 for training, 0 for validation, 0 for"
        " testing). Check that the keys of --labels are those of images (--set "
        "mine_pairs.image_key).",
        _mined([(s, []) for s, _ in GOOD]),
    ),
    Case(
        "late errors",
        "no image for training",
        "refused after mining: labels of training images: expected at least two different"
        " ones, found 0; 4 of 4 images labelled (0 for training, 2 for validation, 2 for "
        "testing). Label more images, or name the split of some in a column 'split' of "
        "the label file.",
        _mined(_without("train")),
    ),
    Case(
        "late errors",
        "no image for validation",
        "refused after mining: labelled images for validation: expected at least one to "
        "choose settings by, found 8 of 8 images labelled (6 for training, 0 for "
        "validation, 2 for testing). Label more images, or name the split of some in a "
        "column 'split' of the label file, or give a larger --set "
        "mine_pairs.validation_share=0.4.",
        _mined(_without("validation")),
    ),
    Case(
        "late errors",
        "no image for testing",
        "refused after mining: labelled images for testing: expected at least one for the"
        " figures, found 8 of 8 images labelled (6 for training, 2 for validation, 0 for "
        "testing). Label more images, or name the split of some in a column 'split' of "
        "the label file, or give a larger --set mine_pairs.test_share=0.4.",
        _mined(_without("test")),
    ),
    Case(
        "late errors",
        "no query of a training image",
        "refused after mining: mined queries: expected one with at least 1 training "
        "images. Mine more of the log, or lower --set prepare_pairs.min_query_images=1 "
        "and mine_pairs.min_users, the people who must have typed a query.",
        _mined(GOOD, queries=0),
    ),
    Case(
        "late errors",
        "`--set prepare_examples.min_label_images=9` and five images of each",
        "refused after mining: labels of training images: expected at least two different "
        "ones, found 0; 0 of 10 images labelled (0 for training, 0 for validation, 0 for "
        "testing). Label more images, or lower --set prepare_examples.min_label_images.",
        _mined(GOOD, min_label_images="9"),
    ),
    Case(
        "several labels",
        "two rows an image in the label file",
        "10 of 10 labelled images have several labels: the classifier gives any number of"
        " them (task multi, sigmoid)",
        _mined([(s, [*of, "pet"]) for s, of in GOOD]),
    ),
    Case(
        "several labels",
        "one image of 101 with two labels",
        "1 of 101 labelled images have several labels and are left out: the others have "
        "one (task single, softmax)",
        _mined([*GOOD * 10, ("train", ["cat", "dog"])]),
    ),
    Case(
        "several labels",
        "two rows an image, `--set prepare_examples.task=single`",
        "refused after mining: --set prepare_examples.task=single: expected one label an "
        "image, found several on 10 of 10. Leave it out, or give --set "
        "prepare_examples.task=multi.",
        _mined([(s, [*of, "pet"]) for s, of in GOOD], task="single"),
    ),
    Case(
        "several labels",
        "one row an image",
        "trained",
        _mined(GOOD),
    ),
    Case(
        "rare classes",
        "a class without a test image",
        "1 of 3 labels have no test image, and so neither recall nor average precision "
        "(mAP is the mean over the other 2): class 2.",
        _tested([0, 0, 1], [0, 0, 1], 3),
    ),
    Case(
        "rare classes",
        "200 classes, 20 test images",
        "180 of 200 labels have no test image, and so neither recall nor average "
        "precision (mAP is the mean over the other 20): class 1, class 2, class 3, class "
        "4, class 5, class 6, class 7, class 8, class 9, class 11 and 170 more.",
        _tested(range(0, 200, 10), range(0, 200, 10), 200),
    ),
    Case(
        "rare classes",
        "a test image of a class that no training image has",
        "1 of 3 test images have no label that a training image has: they count as wrong,"
        " and have no likelihood.",
        _tested([0, 1, -1], [0, 1, 1], 2),
    ),
    Case(
        "rare classes",
        "a class that is never predicted",
        "1 of 2 labels were chosen for no test image by the fused classifier, and so have"
        " no precision: class 1.",
        _tested([0, 0, 1], [0, 0, 0], 2),
    ),
    Case(
        "rare classes",
        "one test image",
        "1 of 2 labels have no test image, and so neither recall nor average precision "
        "(mAP is the mean over the other 1): class 1. There is one test image only: no "
        "error can be told.",
        _tested([0], [0], 2),
    ),
    Case(
        "rare classes",
        "a class without a test image, after mining",
        "1 of 3 labels have no image for testing and have no figures of their own in the "
        "report: emu",
        _mined([*GOOD, ("train", ["emu"])]),
    ),
    Case(
        "rare classes",
        "a class without a training image, after mining",
        "1 of 3 labels have no image for training and cannot be learned: emu",
        _mined([*GOOD, ("test", ["emu"])]),
    ),
]
