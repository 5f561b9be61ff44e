"""The stages of a run, in order: what each does, reads and writes."""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Step:
    """One stage of the run.

    Attributes:
      name: the stage, and the part before the dot in --set.
      module: what `python -m` runs.
      does: what people see while it runs.
      output: its dataset's folder below the work folder.
      inputs: flag → dataset below the work folder.
    """

    name: str
    module: str
    does: str
    output: str
    inputs: Mapping[str, str]


def _step(name: str, module: str, does: str, output: str, *inputs: str, **renamed: str) -> Step:
    return Step(name, module, does, output, {i: i for i in inputs} | renamed)


SAMPLES = _step(
    "make_samples", "samples.make_samples", "draws scenes, a click log and labels", "samples"
)


FORGET = Step(
    "forget", "beam_jobs.mining.forget", "deletes from days what must be forgotten", "", {}
)


STEPS = (
    _step(
        "mine_pairs",
        "beam_jobs.mining.mine_pairs",
        "finds who chose which image for which query",
        "mined",
    ),
    _step(
        "prepare_pairs",
        "beam_jobs.models.prepare_pairs",
        "brings clicked images to training resolution, with their queries",
        "training_pairs",
        "mined",
    ),
    _step(
        "train_text_generator",
        "model_code.models.text_generator.train",
        "learns to predict queries from pixels",
        "text_generator",
        pairs="training_pairs",
    ),
    _step(
        "train_text_embedder",
        "model_code.models.text_embedder.train",
        "learns which queries mean alike",
        "text_embedder",
        "mined",
    ),
    _step(
        "embed_phrases",
        "beam_jobs.models.embed_phrases",
        "gives every query its vectors and builds the phrase index",
        "phrases",
        "mined",
        "text_embedder",
        generator="text_generator",
    ),
    _step(
        "train_pixel_embedder",
        "model_code.models.pixel_embedder.train",
        "prepares the pixel network",
        "pixel_embedder",
        "mined",
    ),
    _step(
        "embed_images",
        "beam_jobs.models.embed_images",
        "predicts phrases and embeds text and pixels of every image",
        "features",
        "mined",
        "pixel_embedder",
        "phrases",
        generator="text_generator",
    ),
    _step(
        "prepare_examples",
        "beam_jobs.models.prepare_examples",
        "checks and normalises the labelled images' features",
        "examples",
        "features",
    ),
    _step(
        "train_fusion",
        "model_code.models.fusion.train",
        "trains and compares the pixel-only, text-only and fused classifiers",
        "fusion",
        "examples",
    ),
    _step(
        "export_model",
        "model_code.models.fusion.export",
        "joins all networks into one model: image bytes to labels and phrases",
        "model",
        "pixel_embedder",
        "phrases",
        "fusion",
        generator="text_generator",
    ),
    _step(
        "classify_images",
        "beam_jobs.models.classify_images",
        "classifies every image",
        "predictions",
        "model",
    ),
    _step("report", "model_code.report.pages", "writes the report and the cards", "report"),
)
