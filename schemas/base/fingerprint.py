"""Names made from content: ids of rows, shards of ids, fingerprints of configs and models."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


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
