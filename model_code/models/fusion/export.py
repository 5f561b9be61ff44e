"""Makes one model of all: image bytes in, labels and the phrases that led to them out.

Reads the models of every stage, and checks that they belong together. The export holds the
image networks, the phrases with both their vectors, the normalisation that tf.Transform
learned, and the fused classifier; it needs TensorFlow and nothing else.

Writes a dataset with the table "model": saved_model/ (images [batch] string → labels and
probabilities [batch, k], phrases and phrase_scores [batch, N], and by how much each phrase moved
each label's logit, phrase_effects [batch, k, N]) and config.json.

  ./run.sh export_model --generator work/text_generator \\
    --pixel_embedder work/pixel_embedder --phrases work/phrases \\
    --fusion work/fusion --output work/model
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence

from schemas.base import fingerprint
from schemas.console import program
from schemas.console.flags import flag
from schemas.datasets import integrity
from schemas.datasets.dataset import Dataset
from schemas.runs import command
from schemas.runs.run import Run

MODULES = ("model_code.models.fusion.export", "model_code.models.fusion.classifier")


@dataclasses.dataclass(frozen=True)
class Config:
    generator: str = flag("Text generator (train_text_generator).", role="input")
    pixel_embedder: str = flag("Pixel embedder (train_pixel_embedder).", role="input")
    phrases: str = flag("Phrases (beam_jobs.models.embed_phrases).", role="input")
    fusion: str = flag("Classifier (train_fusion).", role="input")
    output: str = flag("Dataset to write.", role="output")
    top_labels: int = flag("Labels returned, most probable first.", default=5, minimum=1)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)


def _datasets(config: Config) -> Mapping[str, str]:
    return {
        name: getattr(config, name) for name in ("generator", "pixel_embedder", "phrases", "fusion")
    }


def _work(config: Config, run: Run) -> int:
    import contextlib

    from model_code.models.fusion import serving_graph

    tables = {
        "generator": (config.generator, "model"),
        "pixel_embedder": (config.pixel_embedder, "model"),
        "index": (config.phrases, "index"),
        "transform": (config.fusion, "transform_fn"),
        "metadata": (config.fusion, "metadata"),
        "fusion": (config.fusion, "model"),
    }
    for path, table in tables.values():
        Dataset(path).shards(table)
    local = run.empty_folder("model")
    with contextlib.ExitStack() as stack:
        folders = {
            name: stack.enter_context(integrity.local_copy(Dataset(path), table))
            for name, (path, table) in tables.items()
        }
        sizes = serving_graph.export(folders, local, config.top_labels)
    description = sizes | {"inputs": run.inputs}
    with open(os.path.join(local, "config.json"), "w", encoding="utf-8") as f:
        json.dump(description, f, indent=1)
    run.commit_files("model", local, {}, fingerprint.of_json(description))
    size = sum(shard.bytes for shard in Dataset(run.output).shards("model"))
    print(
        f"export_model: {sizes['labels']:,} labels, {sizes['phrases']:,} phrases, "
        f"{size / 1e6:,.0f} MB"
    )
    following = program.command(
        "classify_images",
        model=config.output,
        images="IMAGES/**",
        output=program.beside(config.output, "predictions"),
    )
    print(f"next: {following}")
    return 0


def run(argv: Sequence[str] | None = None) -> int:
    return command.main(
        "export_model", Config, __doc__, argv, work=_work, datasets=_datasets, modules=MODULES
    )


if __name__ == "__main__":
    sys.exit(run())
