"""Gives every query its vector and its text embedding, and builds the phrase index.

Reads a mined dataset, a text generator and a text embedder. Head queries keep their
softmax weight w_c, or get their prototype φ_c, the mean embedding of the training images that
people chose for it, or a mix of both: whichever is best on validation images. Every other query
gets its prototype, on the scale on which it compares with the head's vectors, so that the
vocabulary outgrows the training.

Writes one dataset with the tables image_embs (clicked images in query space), phrases,
calibration (the scale, and the retrieval of validation images' queries among all phrases),
index (Faiss, its id table and vectors) and dead_letters.

  ./run.sh embed_phrases --mined work/mined --generator work/text_generator \\
      --text_embedder work/text_embedder --output work/phrases
"""

import dataclasses
import sys
from collections.abc import Iterable, Iterator, Mapping

import apache_beam as beam

from beam_jobs.dataflow import hints as hints_lib
from beam_jobs.frame import job, reuse
from beam_jobs.frame.ceiling_flags import CeilingConfig
from beam_jobs.frame.reuse import Reused, WaitForCheck
from beam_jobs.frame.reuse_flags import ReuseConfig
from model_code.index.choice import KINDS, IndexSettings
from model_code.phrases.calibration import HEADS
from model_code.runtime import settings as inference_settings
from model_code.runtime.settings import EmbeddingSettings
from schemas.console import program
from schemas.console.flags import flag
from schemas.datasets.dataset import Dataset
from schemas.datasets.manifest import Manifest, Shard, Table
from schemas.runs.run import Run
from schemas.tables import embedded as tables
from schemas.tables.vectors import Vectors
from transforms.inference.folders import ModelFolder
from transforms.phrases import build as phrases_lib
from transforms.phrases import calibration, prototypes
from transforms.phrases import index as phrase_index
from transforms.phrases import ranks as phrase_ranks
from transforms.phrases.prototypes import EVIDENCE
from transforms.shards import commit
from transforms.shards.map_shards import MapShards
from transforms.shards.outputs import COUNTS, SHARDS
from transforms.shards.reuse import shards_by_index
from transforms.shards.tasks import ListTasks, numbered_paths


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(EmbeddingSettings, ReuseConfig, CeilingConfig):
    mined: str = flag("Dataset of mine_pairs.", role="input")
    generator: str = flag("Text generator.", role="input")
    text_embedder: str = flag("Text embedder.", role="input")
    output: str = flag("Dataset to write.", role="output")
    min_prototype_images: int = flag(
        "Fewest training images that make a prototype.", default=2, minimum=1
    )
    prototype_weights: str = flag(
        "What an image counts in a prototype: more with more clicks, or all the same.",
        default="clicks",
        choices=EVIDENCE,
    )
    head_vectors: str = flag(
        "What stands for a head query: weight, prototype, a mix, or the best of them on "
        "validation images.",
        default="auto",
        choices=HEADS,
    )
    calibration_images: int = flag(
        "Validation images that calibrate prototypes and rank phrases, at most.",
        default=10_000,
        minimum=0,
    )
    max_dead_fraction: float = flag(
        "Share of dead rows that fails the job.", default=0.05, minimum=0, maximum=1
    )
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)
    index_kind: str = flag(
        "Kind of the phrase index.", default="auto", choices=("auto", *KINDS), essential=True
    )
    index_recall: float = flag(
        "Share of the 3 nearest phrases that search finds.", default=0.99, above=0, maximum=1
    )
    index_memory: int = flag("Bytes of memory for the index; 0 for any.", default=0, minimum=0)
    earlier_phrases: str = flag(
        "Dataset of embed_phrases whose index is updated.",
        default="",
        role="input",
        essential=False,
    )
    max_index_drift: float = flag(
        "Share of phrases added, removed or moved that makes it anew.",
        default=0.2,
        minimum=0,
        maximum=1,
    )


def _datasets(config: Config) -> dict[str, str]:
    return {
        "mined": config.mined,
        "generator": config.generator,
        "text_embedder": config.text_embedder,
    } | ({"earlier_phrases": config.earlier_phrases} if config.earlier_phrases else {})


def preflight(config: Config) -> job.Inputs:
    mined = Dataset(config.mined)
    mined.shards("pairs")
    generator, _ = (ModelFolder.of(path) for path in (config.generator, config.text_embedder))
    rows = {name: mined.manifest.tables[name].rows for name in ("images", "queries")}
    return job.Inputs(
        _datasets(config),
        facts=(
            f"{rows['images']:,} images, {rows['queries']:,} queries",
            *reuse.facts(config, lambda: _reused(config, generator)),
        ),
    )


@dataclasses.dataclass(frozen=True)
class Networks:
    """The networks that the flags name.

    Attributes:
      generator: makes vectors of images in query space, of `query_width`.
      text_embedder: makes vectors of texts, of `text_width`.
    """

    generator: ModelFolder
    text_embedder: ModelFolder
    query_width: int
    text_width: int

    @classmethod
    def of(cls, config: Config) -> "Networks":
        generator, text_embedder = map(ModelFolder.of, (config.generator, config.text_embedder))
        widths = (folder.config()["width"] for folder in (generator, text_embedder))
        return cls(generator, text_embedder, *widths)

    @property
    def vectors(self) -> Vectors:
        """Those of a phrase."""
        return {"query_vector": (self.query_width,), "text_emb": (self.text_width,)}


def build(pipeline: beam.Pipeline, config: Config, run: Run, _: job.Inputs) -> None:
    networks, mined = Networks.of(config), Dataset(config.mined)
    query_width, text_width = networks.query_width, networks.text_width
    num_shards, queries = mined.manifest.num_shards, mined.manifest.tables["queries"].rows
    # Vectors, their texts' embeddings and the index lie in the memory of one worker.
    one_worker = hints_lib.memory_hint(pipeline, queries * 4 * (2 * query_width + text_width))

    images = pipeline | "EmbedClickedImages" >> EmbedImages(config, networks, mined, run)
    phrases = images[SHARDS] | "Phrases" >> MakePhrases(config, networks, mined, run)
    index = (
        (images[SHARDS], phrases[SHARDS])
        | "ImagesAndPhrases" >> beam.Flatten()
        | "Index"
        >> phrase_index.BuildIndex(
            run,
            networks.generator.config()["temperature"],
            IndexSettings(
                config.index_kind, config.index_recall, config.index_memory, config.max_index_drift
            ),
            config.earlier_phrases,
            one_worker,
        )
    )
    {
        SHARDS: (images[SHARDS], phrases[SHARDS], phrases["calibration"], index)
        | "Shards" >> beam.Flatten(),
        COUNTS: (images[COUNTS], phrases[COUNTS]) | "Counts" >> beam.Flatten(),
    } | commit.CommitManifest(
        run,
        {
            "image_embs": commit.parquet(prototypes.image_embs_schema(query_width)),
            "phrases": commit.parquet(tables.phrases(networks.vectors)),
            "calibration": Table("files", "", ()),
            "index": Table("files", "", ()),
        },
        num_shards,
        config.ceilings(),
    )


class EmbedImages(beam.PTransform):
    """Clicked images → `shards` of their vectors in query space, and `counts`."""

    def __init__(self, config: Config, networks: Networks, mined: Dataset, run: Run):
        super().__init__()
        self._config, self._networks = config, networks
        self._mined, self._run = mined, run

    def expand(self, pipeline):
        config, mined, generator = self._config, self._mined, self._networks.generator
        num_shards = mined.manifest.num_shards
        embed = phrases_lib.EmbedClickedImages(
            self._run,
            generator,
            self._networks.query_width,
            inference_settings.of_config(config),
            mined.manifest.tables["images"].rows,
        )
        reused = _reused(config, generator)
        hints = hints_lib.inference_hints(pipeline.pipeline, generator.bytes)
        return (
            pipeline
            | "ImageShards"
            >> ListTasks(image_tasks, mined.run_folder, config.calibration_images, reused.folder)
            | WaitForCheck(reused)
            | "Embed"
            >> MapShards(self._run, embed, {"image_embs": ["image_id"]}, num_shards, hints)
        )


class MakePhrases(beam.PTransform):
    """Shards of clicked images' vectors → a dict with `shards` of phrases, and their `counts`;
    `calibration`, the shard of the file that says on what scale their vectors are."""

    def __init__(self, config: Config, networks: Networks, mined: Dataset, run: Run):
        super().__init__()
        self._config, self._networks = config, networks
        self._mined, self._run = mined, run

    def expand(self, embedded):
        config, networks, run = self._config, self._networks, self._run
        num_shards = self._mined.manifest.num_shards
        mined = self._mined.run_folder
        embs = embedded | "TakeEmbs" >> beam.FlatMap(_numbered_embs, run)
        pairs = embedded.pipeline | "PairShards" >> ListTasks(numbered_paths, mined, "pairs")
        made = (
            {"embs": embs, "pairs": pairs}
            | "PairsOfEmbs" >> beam.CoGroupByKey()
            | "WithPairs" >> beam.FlatMapTuple(_with_pairs)
            | prototypes.Prototypes(networks.query_width, num_shards, config.prototype_weights)
        )
        calibrated = made | calibration.Calibrate(
            networks.generator,
            networks.query_width,
            config.min_prototype_images,
            config.head_vectors,
        )
        queries = embedded.pipeline | "QueryShards" >> ListTasks(numbered_paths, mined, "queries")
        shards = {"sums": made["sums"], "queries": queries} | beam.CoGroupByKey()
        built = (shards, calibrated) | phrases_lib.BuildPhrases(
            run,
            networks.generator,
            networks.text_embedder,
            vectors=networks.vectors,
            num_shards=num_shards,
            min_images=config.min_prototype_images,
        )
        ranked = built[phrases_lib.RANKED]
        return {
            SHARDS: built[SHARDS],
            COUNTS: built[COUNTS],
            "calibration": (calibrated, ranked) | phrase_ranks.WriteCalibration(run),
        }


def image_tasks(
    mined: str, calibration_images: int, reused: str
) -> Iterator[tuple[int, phrases_lib.ImageTask]]:
    """For each shard of images: its number, and what is embedded of it.

    Args:
      mined: the folder of a run of mine_pairs.
      calibration_images: validation images of all shards.
      reused: the folder of an earlier run of this job; "" for none.
    """
    num_shards = Dataset(mined).manifest.num_shards
    quotas = phrases_lib.share_out(calibration_images, num_shards)
    earlier = shards_by_index(Dataset(reused), "image_embs", num_shards) if reused else {}
    pairs = dict(numbered_paths(mined, "pairs"))
    for i, path in numbered_paths(mined, "images"):
        yield i, phrases_lib.ImageTask(path, pairs.get(i), quotas[i], earlier.get(i, ()))


def _numbered_embs(named: tuple[str, Shard], run: Run) -> Iterator[tuple[int, str]]:
    name, shard = named
    if name == "image_embs":
        yield shard.index, run.absolute(shard.path)


def _with_pairs(_: int, found: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, str]]:
    """The files of vectors and of pairs of one shard, where there are vectors."""
    (pairs,) = found["pairs"] or (None,)
    for embs in found["embs"]:
        assert pairs is not None  # only clicked images are embedded
        yield embs, pairs


def _reused(config: Config, generator: ModelFolder) -> Reused:
    """What the same generator made of images in an earlier run."""

    def made_alike(earlier: Manifest) -> bool:
        same = earlier.models.get("generator") == generator.fingerprint
        return same and inference_settings.same_precision(earlier.config, config)

    return Reused.of(config, "image_embs", made_alike=made_alike)


JOB = job.Job(
    name="embed_phrases",
    module="beam_jobs.models.embed_phrases",
    doc=__doc__,
    config=Config,
    build=build,
    preflight=preflight,
    next_command=lambda c: program.command(
        "train pixel_embedder", mined=c.mined, output=program.beside(c.output, "pixel_embedder")
    ),
    runs_networks=True,
)


def run(argv: list[str] | None = None) -> int:
    return job.run(JOB, argv)


if __name__ == "__main__":
    sys.exit(run())
