"""Gives every query its vector and its text embedding, and builds the phrase index.

Reads a mined dataset, a text generator and a text embedder. Head queries keep their
softmax weight w_c; every other query gets its prototype φ_c, the mean embedding of the
training images that people chose for it, so that the vocabulary outgrows the training.

Writes one dataset with the tables image_embs (training images in query space), phrases,
index (Faiss, its id table and vectors) and dead_letters.

  ./run.sh embed_phrases --mined work/mined --generator work/text_generator \\
      --text_embedder work/text_embedder --output work/phrases
"""

import dataclasses
import sys

import apache_beam as beam

from beam_jobs import job
from schemas import tables
from schemas.config import flag
from schemas.manifest import Dataset, Table
from transforms import datasets, phrases
from transforms.datasets import COUNTS, SHARDS
from transforms.models import ModelFolder
from transforms.shards import MapShards


@dataclasses.dataclass(frozen=True)
class Config:
    mined: str = flag("Dataset of mine_pairs.", role="input")
    generator: str = flag("Text generator.", role="input")
    text_embedder: str = flag("Text embedder.", role="input")
    output: str = flag("Dataset to write.", role="runtime")
    min_prototype_images: int = flag("Fewest training images that make a prototype.", default=2)
    head_vectors: str = flag(
        "What stands for a head query.", default="weight", choices=("weight", "prototype")
    )
    max_dead_fraction: float = flag("Share of dead rows that fails the job.", default=0.05)
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime")


def _datasets(config: Config) -> dict[str, str]:
    return {
        "mined": config.mined,
        "generator": config.generator,
        "text_embedder": config.text_embedder,
    }


def preflight(config: Config) -> job.Inputs:
    mined = Dataset(config.mined)
    mined.shards("pairs")
    for model in (config.generator, config.text_embedder):
        ModelFolder.of(model)
    rows = {name: mined.manifest.tables[name].rows for name in ("images", "queries")}
    return job.Inputs(
        _datasets(config), facts=(f"{rows['images']:,} images, {rows['queries']:,} queries",)
    )


def build(pipeline: beam.Pipeline, config: Config, stage) -> None:
    mined = Dataset(config.mined)
    num_shards = mined.manifest.num_shards
    generator, text_embedder = (
        ModelFolder.of(path) for path in (config.generator, config.text_embedder)
    )
    query_width, text_width = generator.config()["width"], text_embedder.config()["width"]
    paths = {
        name: {shard.index: mined.path(shard) for shard in mined.shards(name)}
        for name in ("images", "pairs", "queries")
    }

    embed = phrases.EmbedTrainingImages(
        stage, generator, query_width, mined.manifest.tables["images"].rows
    )
    tasks = [(i, (path, paths["pairs"].get(i))) for i, path in paths["images"].items()]
    embedded = (
        pipeline
        | "ImageShards" >> beam.Create(tasks)
        | "EmbedTrainingImages" >> MapShards(stage, embed, {"image_embs": ["image_id"]}, num_shards)
    )
    sums = (
        embedded[SHARDS]
        | "TakeEmbs" >> beam.Filter(lambda named: named[0] == "image_embs")
        | "AddPairs"
        >> beam.Map(lambda named: (stage.absolute(named[1].path), paths["pairs"][named[1].index]))
        | phrases.Prototypes(query_width, num_shards)
    )
    queries = pipeline | "QueryShards" >> beam.Create(list(paths["queries"].items()))
    built = (
        {"sums": sums, "queries": queries}
        | beam.CoGroupByKey()
        | phrases.BuildPhrases(
            stage,
            generator,
            text_embedder,
            (query_width, text_width),
            num_shards,
            config.min_prototype_images,
            config.head_vectors,
        )
    )
    index = (
        pipeline
        | "Once" >> beam.Create([None])
        | "BuildIndex"
        >> beam.FlatMap(
            phrases.build_index,
            beam.pvalue.AsIter(built[SHARDS]),
            stage,
            generator.config()["temperature"],
        )
    )
    {
        SHARDS: (embedded[SHARDS], built[SHARDS], index) | "Shards" >> beam.Flatten(),
        COUNTS: (embedded[COUNTS], built[COUNTS]) | "Counts" >> beam.Flatten(),
    } | datasets.CommitManifest(
        stage,
        {
            "image_embs": datasets.parquet(phrases.image_embs_schema(query_width)),
            "phrases": datasets.parquet(tables.phrases(query_width, text_width)),
            "index": Table("files", "", ()),
        },
        num_shards,
        config.max_dead_fraction,
    )


JOB = job.Job(
    name="embed_phrases",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: (
        f"./run.sh embed_images --mined {c.mined} --generator {c.generator} "
        f"--pixel_embedder … --phrases {c.output} --output …"
    ),
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
