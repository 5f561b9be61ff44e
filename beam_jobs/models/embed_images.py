"""Computes the features of every image: its phrases, their text embedding, its pixels.

Reads a mined dataset, a text generator, a pixel embedder and the phrases. Each image is
decoded once; every model is loaded once a worker. A shard in makes a shard out, and a
run that died goes on after its last whole shard.

Writes one dataset with the tables features and dead_letters.

  ./run.sh embed_images --mined work/mined --generator work/text_generator \\
      --pixel_embedder work/pixel_embedder --phrases work/phrases --output work/features
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence

import apache_beam as beam

from beam_jobs.dataflow import hints as hints_lib
from beam_jobs.frame import job, reuse
from beam_jobs.frame.ceiling_flags import CeilingConfig
from beam_jobs.frame.reuse import Reused, WaitForCheck
from beam_jobs.frame.reuse_flags import ReuseConfig
from model_code.phrases import settings as phrase_settings
from model_code.phrases.settings import PhraseSettings
from model_code.runtime import settings as inference_settings
from model_code.runtime.settings import EmbeddingSettings
from schemas.console import program
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import Manifest
from schemas.runs.run import Run
from transforms.inference.embed_images import EmbedImages
from transforms.inference.folders import ModelFolder
from transforms.shards import commit, outputs
from transforms.shards.map_shards import MapShards
from transforms.shards.reuse import shards_by_index
from transforms.shards.tasks import ListTasks


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(EmbeddingSettings, ReuseConfig, CeilingConfig):
    mined: str = flag("Dataset of mine_pairs.", role="input")
    generator: str = flag("Text generator.", role="input")
    pixel_embedder: str = flag("Pixel embedder.", role="input")
    phrases: str = flag("Dataset of embed_phrases.", role="input")
    output: str = flag("Dataset to write.", role="output")
    num_phrases: int = flag(
        "Phrases predicted for an image, N.", default=3, minimum=1, essential=True
    )
    diversity: str = flag(
        "The N nearest phrases; near-identical ones once (merge); or maximal marginal relevance.",
        default="none",
        choices=phrase_settings.DIVERSITIES,
        essential=True,
    )
    phrase_pool: int = flag(
        "Nearest phrases that merge and mmr choose from.", default=50, minimum=1
    )
    mmr_lambda: float = flag(
        "Of mmr: 1 is nearness alone, 0 difference alone.", default=0.7, minimum=0, maximum=1
    )
    merge_similarity: float = flag(
        "Of merge: cosine of text embeddings from which on two phrases are one.",
        default=0.9,
        above=0,
        maximum=1,
    )
    phrase_weights: str = flag(
        "Weights of the phrases in the text feature.",
        default="equal",
        choices=phrase_settings.WEIGHTS,
    )
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)

    def __post_init__(self):
        """Raises PhraseLensError for a value that makes no sense."""
        PhraseSettings.of(dataclasses.asdict(self)).check()


def preflight(config: Config) -> job.Inputs:
    mined = Dataset(config.mined)
    mined.shards("images")
    ModelFolder.of(config.generator)
    ModelFolder.of(config.pixel_embedder)
    ModelFolder.of(config.phrases, "index")
    return job.Inputs(
        {
            "mined": config.mined,
            "generator": config.generator,
            "pixel_embedder": config.pixel_embedder,
            "phrases": config.phrases,
        },
        facts=(
            f"{mined.manifest.tables['images'].rows:,} images, N = {config.num_phrases}",
            *reuse.facts(config, lambda: _reused(config)),
        ),
    )


def build(pipeline: beam.Pipeline, config: Config, run: Run, _: job.Inputs) -> None:
    mined = Dataset(config.mined)
    generator, pixel_embedder = (
        ModelFolder.of(path) for path in (config.generator, config.pixel_embedder)
    )
    index = ModelFolder.of(config.phrases, "index")
    vectors = {
        "query_emb": (generator.config()["width"],),
        "text_emb": (index.config()["text_width"],),
        "pixel_emb": (pixel_embedder.config()["width"],),
    }
    worker = EmbedImages(
        run,
        generator,
        pixel_embedder,
        index,
        vectors,
        PhraseSettings.of(dataclasses.asdict(config)),
        inference_settings.of_config(config),
        mined.manifest.tables["images"].rows,
    )
    num_shards = mined.manifest.num_shards
    models = (generator, pixel_embedder, index)
    hints = hints_lib.inference_hints(pipeline, sum(model.bytes for model in models))
    reused = _reused(config)
    embedded = (
        pipeline
        | "ImageShards" >> ListTasks(image_tasks, mined.run_folder, reused.folder)
        | WaitForCheck(reused)
        | "EmbedImages" >> MapShards(run, worker, {"features": ["image_id"]}, num_shards, hints)
    )
    tables = {"features": commit.parquet(worker.schema)}
    {name: embedded[name] for name in (outputs.SHARDS, outputs.COUNTS)} | commit.CommitManifest(
        run, tables, num_shards, config.ceilings()
    )


def image_tasks(mined: str, reused: str) -> Iterator[tuple[int, tuple[str, Sequence[str]]]]:
    """For each shard of images: its number, its file, and features of an earlier run of the same.

    Args:
      mined: the folder of a run of mine_pairs.
      reused: the folder of an earlier run of this job; "" for none.
    """
    images = Dataset(mined)
    num_shards = images.manifest.num_shards
    earlier = shards_by_index(Dataset(reused), "features", num_shards) if reused else {}
    for shard in images.shards("images"):
        yield shard.index, (images.path(shard), earlier.get(shard.index, []))


def _reused(config: Config) -> Reused:
    """The features of an earlier run of the same precision."""

    def made_alike(earlier: Manifest) -> bool:
        return inference_settings.same_precision(earlier.config, config)

    return Reused.of(config, "features", made_alike=made_alike)


JOB = job.Job(
    name="embed_images",
    module="beam_jobs.models.embed_images",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: program.command(
        "prepare_examples", features=c.output, output=program.beside(c.output, "examples")
    ),
    runs_networks=True,
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
