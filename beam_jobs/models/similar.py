"""Finds the images most like an image: those nearest to it in query space.

Two images are alike there when people would search for them with the same words. Compares the
image with every image of the features, exactly. An IMAGE is a file, which --generator embeds,
or the image_id of an image of the features. With --phrases, the phrases of a file are predicted
too, and those that it shares with each image found are shown.

  ./run.sh similar photo.jpg --features work/features --generator work/text_generator \\
      --phrases work/phrases --mined work/mined
  ./run.sh similar 8f14e45fceea167a5a36dedd4bea2543 --features work/features --count 20 --json
"""

import dataclasses
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from beam_jobs.frame.image_flags import ImageConfig
from model_code.images.rows import read_rows
from model_code.phrases.settings import PhraseSettings
from schemas.base import places, storage
from schemas.base.errors import PhraseLensError, tell
from schemas.base.printable import printable
from schemas.console import heartbeat
from schemas.console.flags import flag
from schemas.console.parser import parser_for
from schemas.datasets import integrity
from schemas.datasets.dataset import Dataset
from schemas.runs import command_line
from schemas.tables.vectors import arrow_to_vectors
from transforms.images.clean import ImageError, ImageLimits
from transforms.images.process import clean_safely

BATCH_ROWS = 1 << 15


@dataclasses.dataclass(frozen=True)
class Config:
    features: str = flag("Dataset of embed_images: the images to search.", role="input")
    generator: str = flag(
        "Text generator that made the features; needed for files.", default="", role="input"
    )
    phrases: str = flag(
        "Dataset of embed_phrases that made the features, for the phrases of files.",
        default="",
        role="input",
    )
    mined: str = flag(
        "Dataset of mine_pairs, for the names of the images found; a file is read with its limits.",
        default="",
        role="input",
    )
    count: int = flag("Images to find.", default=10, minimum=1, essential=True)
    json: bool = flag("Print JSON.", default=False, role="runtime", essential=True)


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Images to find others for.

    Attributes:
      names: [n] as they were given.
      query_embs: [n, M] float32.
      phrases: [n] the phrases of each; None where they are not known.
    """

    names: list[str]
    query_embs: np.ndarray
    phrases: list[list[str] | None]


def nearest_images(
    query_embs: np.ndarray, batches: Iterable[pa.RecordBatch], count: int
) -> list[list[tuple[str, float]]]:
    """The nearest images by cosine, exactly, with no more than a batch in memory.

    Args:
      query_embs: [n, M] float32.
      batches: image_id and query_emb of the images to search.
      count: how many.

    Returns:
      For each query at most `count` (image id, cosine): nearest first, of equals the lower id.
      Cosines have 6 decimals: what float32 holds, however the rows are cut into batches.
    """
    queries = _units(query_embs)
    best: list[list[tuple[str, float]]] = [[] for _ in queries]
    for batch in batches:
        if not batch.num_rows:
            continue
        cosines = (queries @ _units(arrow_to_vectors(batch["query_emb"])).T).round(6)
        for row, found in enumerate(cosines):
            least = np.partition(found, -count)[-count] if len(found) > count else -np.inf
            places = np.flatnonzero(found >= least)
            ids = batch["image_id"].take(pa.array(places)).to_pylist()
            best[row] += zip(ids, found[places].astype(float).round(6).tolist(), strict=True)
            best[row] = sorted(best[row], key=lambda item: (-item[1], item[0]))[:count]
    return best


def _units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def limits_of(mined: Mapping[str, Any]) -> ImageLimits:
    """The limits of images in the settings of a run of mine_pairs; the defaults without one."""
    names = [field.name for field in dataclasses.fields(ImageConfig)]
    return ImageLimits.of(ImageConfig(**{name: mined[name] for name in names if name in mined}))


def read_image(path: str, limits: ImageLimits) -> bytes:
    """An image file as mine_pairs stores it, so that a picture is embedded as it would be there.

    Args:
      path: local or gs://.
      limits: of its mining.

    Returns:
      JPEG or PNG: upright, in sRGB, on white, of bounded size.

    Raises:
      PhraseLensError: it is no image, or beyond the limits.
    """
    try:
        return clean_safely(storage.read_bytes(path), limits).data
    except ImageError as error:
        raise PhraseLensError(path, "an image", f"{error.reason}: {error.detail}") from None


def check(features: Dataset, name: str, path: str) -> Dataset:
    """Opens a dataset that must be the one the features were made with.

    Args:
      features: dataset of embed_images.
      name: "generator" or "phrases".
      path: of the dataset.

    Raises:
      PhraseLensError: it is another one.
    """
    dataset = Dataset(path)
    if features.manifest.inputs.get(name) != dataset.manifest.content_hash:
        raise PhraseLensError(
            f"--{name}={path}",
            f"what {features.root} was made with: its vectors mean nothing beside others",
            f"Give that one, or run embed_images with this --{name}.",
        )
    return dataset


def embed(config: Config, features: Dataset, names: Sequence[str]) -> Embedded:
    """Looks images up in the features, or embeds them when they are files.

    Raises:
      PhraseLensError: a name is neither, a file is no image, or a model is not that of the
        features.
    """
    files = [name for name in names if storage.size(name) is not None]
    ids = [name for name in names if name not in files]
    known = read_rows(features, "features", ids, ["query_emb", "phrases"]) if ids else {}
    for name in ids:
        if name not in known:
            raise PhraseLensError(
                name, f"an image file, or an image_id of {features.root}", "Check the path."
            )
    vectors = {name: np.float32(row["query_emb"]) for name, row in known.items()}
    phrases = {name: row["phrases"] for name, row in known.items()}
    if files:
        embs, predicted = _embed_files(config, features, files)
        vectors |= zip(files, embs, strict=True)
        phrases |= zip(files, predicted, strict=True)
    return Embedded(
        list(names),
        np.stack([vectors[name] for name in names]),
        [phrases[name] for name in names],
    )


def _embed_files(
    config: Config, features: Dataset, files: Sequence[str]
) -> tuple[np.ndarray, list[list[str] | None]]:
    """Query embeddings [n, M] float32 of image files, and their phrases."""
    if not config.generator:
        raise PhraseLensError(
            files[0], "--generator to embed files with", f"Give the one of {features.root}."
        )
    generator = check(features, "generator", config.generator)
    index = check(features, "phrases", config.phrases) if config.phrases else None
    limits = limits_of(Dataset(config.mined).manifest.config if config.mined else {})
    images = [read_image(path, limits) for path in files]

    from model_code.images.embedder import ImageEmbedder

    embs = ImageEmbedder(generator.folder("model")).embed(images)["query_emb"]
    if index is None:
        return embs, [None] * len(files)

    from model_code.phrases.chooser import PhraseChooser
    from model_code.phrases.index import PhraseIndex

    with integrity.local_copy(index, "index") as folder:
        settings = PhraseSettings.of(features.manifest.config)
        chosen = PhraseChooser(PhraseIndex(folder), settings).choose(embs)
    return embs, chosen.phrases.tolist()


def find(config: Config, names: Sequence[str]) -> list[dict]:
    """What `--json` prints.

    Returns:
      For each image: "image", "phrases" (None where they are not known) and "similar", a list
      nearest first of "rank", "cosine", "image_id", "keys", "phrases" and "shared_phrases".
    """
    features = Dataset(config.features)
    images = embed(config, features, names)
    batches = features.batches("features", ["image_id", "query_emb"], BATCH_ROWS)
    found = nearest_images(images.query_embs, batches, config.count)
    ids = sorted({image_id for row in found for image_id, _ in row})
    rows = read_rows(features, "features", ids, ["phrases"])
    mined = Dataset(config.mined) if config.mined else None
    named = read_rows(mined, "images", ids, ["keys"]) if mined else {}
    return [
        {
            "image": name,
            "phrases": phrases,
            "similar": [
                {
                    "rank": rank,
                    "cosine": cosine,
                    "image_id": image_id,
                    "keys": named.get(image_id, {}).get("keys", []),
                    "phrases": rows[image_id]["phrases"],
                    "shared_phrases": [
                        p for p in rows[image_id]["phrases"] if p in (phrases or ())
                    ],
                }
                for rank, (image_id, cosine) in enumerate(row, start=1)
            ],
        }
        for name, phrases, row in zip(images.names, images.phrases, found, strict=True)
    ]


def lines(found: Sequence[dict]) -> list[str]:
    """What is printed for people."""
    shown = []
    for image in found:
        known = image["phrases"] is not None
        shown.append(
            f"{image['image']}: {', '.join(image['phrases'])}" if known else image["image"]
        )
        for item in image["similar"]:
            words = item["shared_phrases"] if known else item["phrases"]
            title = "shared" if known else "phrases"
            names = " ".join([item["image_id"], *item["keys"]])
            shown.append(f"{item['rank']:>4}  {item['cosine']:.3f}  {names}")
            shown.append(f"{'':13}{title}: {', '.join(words) or '–'}")
    return [printable(line) for line in shown]


def run(argv: Sequence[str] | None = None) -> int:
    parser = parser_for(Config, "similar", __doc__)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a file, or an image_id")
    try:
        args = parser.read(argv)
        config = command_line.from_args(Config, args)
        with heartbeat.doing("similar"):
            found = find(config, [places.place_of("image", name) for name in args.images])
    except PhraseLensError as error:
        return tell(error)
    print(
        json.dumps(found, indent=1, ensure_ascii=False) if config.json else "\n".join(lines(found))
    )
    return 0


if __name__ == "__main__":
    sys.exit(run())
