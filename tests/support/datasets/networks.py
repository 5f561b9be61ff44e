"""Networks of random weights, and phrases for them, as the stages commit them."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from schemas.base import fingerprint, storage
from schemas.console.flags import flag
from schemas.runs import run as run_lib
from schemas.runs.run import Run
from schemas.tables import embedded
from schemas.tables.vectors import vectors_to_arrow

WIDTH, TEXT_WIDTH, PHRASES, TEMPERATURE = 64, 200, 4096, 0.05


@dataclasses.dataclass(frozen=True)
class _Output:
    output: str = flag("Dataset.", role="output")


def planned(name: str, root: str, *identity: object) -> Run:
    """A run that writes a dataset as the stage `name` would, of what `identity` says."""
    raw = {"benchmark": fingerprint.of_json([str(value) for value in identity])}
    return run_lib.plan(name, _Output(root), [], {}, raw)


def write_networks(
    folder: str, backbone: str, image_size: int = 0, weights: str = "", small_width: int = 16
) -> dict[str, str]:
    """Commits a generator and a pixel embedder of one network, and phrases drawn at random.

    Returns:
      embed_images' flag → dataset.
    """
    roots = {
        name: storage.join(folder, name) for name in ("generator", "pixel_embedder", "phrases")
    }
    identity = backbone, image_size, weights, small_width
    stages = {name: planned(f"bench_{name}", root, *identity) for name, root in roots.items()}
    if all(stage.done for stage in stages.values()):
        return roots
    import keras

    from model_code.images import backbones
    from model_code.images import weights as weights_lib
    from model_code.models.text_generator.network import build_head
    from model_code.phrases import folder as folder_lib

    keras.utils.set_random_seed(0)
    spec = backbones.spec(backbone)
    size = image_size or spec.image_size
    network = weights_lib.pretrained(backbone, size, weights, "--weights", small_width)
    features = network.output_shape[1]
    head = build_head(features, [], WIDTH)
    description = {
        "backbone": backbone,
        "backbone_fingerprint": backbones.fingerprint_of(backbone, network),
        "image_size": size,
        "preprocessing": spec.preprocessing,
    }
    for name, width in (("generator", WIDTH), ("pixel_embedder", features)):
        local = stages[name].empty_folder("model")
        network.save(os.path.join(local, "backbone.keras"))
        head.save(os.path.join(local, "head.keras"))
        config = description | {"width": width, "temperature": TEMPERATURE}
        Path(local, "config.json").write_text(json.dumps(config), encoding="utf-8")
        model = fingerprint.of_arrays(config, [*network.get_weights(), *head.get_weights()])
        stages[name].commit_files("model", local, {}, model)
    local = stages["phrases"].empty_folder("index")
    folder_lib.build(local, _phrases().to_batches(), TEMPERATURE)
    stages["phrases"].commit_files("index", local, {})
    return roots


def _phrases() -> pa.Table:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(PHRASES, WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    text_embs = rng.normal(size=(PHRASES, TEXT_WIDTH)).astype(np.float32)
    columns = [
        pa.array(range(PHRASES), pa.int64()),
        pa.array([f"query {number}" for number in range(PHRASES)]),
        pa.array(["en"] * PHRASES),
        pa.array(["weight"] * PHRASES),
        pa.array([1] * PHRASES, pa.int64()),
        vectors_to_arrow(vectors),
        vectors_to_arrow(text_embs),
    ]
    return pa.table(
        columns, embedded.phrases({"query_vector": (WIDTH,), "text_emb": (TEXT_WIDTH,)})
    )
