"""Names made from content: ids of rows, shards of ids, fingerprints of configs and code."""

import ast
import functools
import hashlib
import importlib.util
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("beam_jobs", "transforms", "model_code", "schemas", "samples")


def of_json(value: object) -> str:
    """Hex SHA-256 of a JSON value, independent of the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def hash64(value: str | bytes, key: bytes = b"") -> int:
    """A stable hash of a string: int64, uniform over its whole range (BLAKE2b, keyed by `key`)."""
    data = value.encode() if isinstance(value, str) else value
    digest = hashlib.blake2b(data, digest_size=8, key=key).digest()
    return int.from_bytes(digest, "little", signed=True)


def hash64_array(values: pa.Array | pa.ChunkedArray, key: bytes = b"") -> np.ndarray:
    """`hash64` of every value of a string or binary column.

    Args:
      values: [n] string or binary; a null counts as the empty string.
      key: of the hash, at most 64 bytes.

    Returns:
      [n] int64. Each distinct value is hashed once.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    encoded = pc.fill_null(values.cast(pa.binary()), b"").dictionary_encode()
    digests = b"".join(
        hashlib.blake2b(value, digest_size=8, key=key).digest()
        for value in encoded.dictionary.to_pylist()
    )
    return np.frombuffer(digests, np.int64)[encoded.indices.to_numpy(zero_copy_only=False)]


def mix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """One hash of two: [n] int64, [n] int64 → [n] int64.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
    """
    x = a.view(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + b.view(np.uint64)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (x ^ (x >> np.uint64(31))).view(np.int64)


def shard_of(ids: pa.Array | pa.ChunkedArray, num_shards: int) -> np.ndarray:
    """The shard of every id, so that a row's place depends on its id alone.

    Args:
      ids: [n] int64 (already a hash) or string.
      num_shards: how many shards there are.

    Returns:
      [n] int64 in [0, num_shards).
    """
    hashes = ids.to_numpy() if pa.types.is_integer(ids.type) else hash64_array(ids)
    return (hashes.view(np.uint64) % np.uint64(num_shards)).astype(np.int64)


def of_code(modules: Iterable[str]) -> str:
    """Hex SHA-256 over the sources of project modules and all that they import, nested or not."""
    pending, sources = list(modules), {}
    while pending:
        name = pending.pop()
        if name in sources or name.split(".")[0] not in PACKAGES:
            continue
        source = _source(name)
        if source is not None:
            sources[name], imported = source
            pending += imported
    return of_json(sources)


@functools.cache  # one process may run many stages
def _source(name: str) -> tuple[str, list[str]] | None:
    """Hex SHA-256 of a module's source, and what it imports; None where it has no source."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        return None
    text, imported = Path(spec.origin).read_text(encoding="utf-8"), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            imported += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.append(node.module)
            if node.module.split(".")[0] in PACKAGES:
                imported += [
                    f"{node.module}.{alias.name}"
                    for alias in node.names
                    if (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").exists()
                ]
    return hashlib.sha256(text.encode()).hexdigest(), imported


def of_arrays(description: object, arrays: Iterable[np.ndarray]) -> str:
    """Hex SHA-256 of a model: its JSON description and its weights, in order."""
    digest = hashlib.sha256(of_json(description).encode())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def short(fingerprints: Mapping[str, str]) -> dict[str, str]:
    """The first 12 digits of each fingerprint, for people to read."""
    return {name: value[:12] for name, value in fingerprints.items()}
