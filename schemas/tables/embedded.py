"""The Arrow schemas of what networks made of phrases and images, with named vectors."""

import pyarrow as pa

from schemas.tables.vectors import Vectors, fields


def phrases(vectors: Vectors) -> pa.Schema:
    """Phrases, one row a query that an image may be given.

    Args:
      vectors: "query_vector", of length 1 for the head, of length s for the tail; and "text_emb",
        of unit length.
    """
    return pa.schema(
        [
            ("query_id", pa.int64()),
            ("query", pa.string()),
            ("language", pa.string()),
            ("source", pa.string()),  # "weight" (w_c), "prototype" (φ_c) or "mix" (of both)
            ("support", pa.int64()),  # training images of the query
            *fields(vectors),
        ]
    )


def features(vectors: Vectors) -> pa.Schema:
    """What is known of an image before it is classified, one row an image.

    Args:
      vectors: the vectors of an image, such as "query_emb", "text_emb" and "pixel_emb".
    """
    return pa.schema(
        [
            ("image_id", pa.string()),
            ("split", pa.string()),
            ("labels", pa.list_(pa.string())),
            ("phrase_ids", pa.list_(pa.int64())),
            ("phrases", pa.list_(pa.string())),
            ("phrase_scores", pa.list_(pa.float32())),  # inner product of the vectors
            ("phrase_probabilities", pa.list_(pa.float32())),  # equation (1) over the index
            *fields(vectors),
            ("generator_fingerprint", pa.string()),
            ("phrases_fingerprint", pa.string()),
            ("pixel_fingerprint", pa.string()),
        ]
    )


def embeddings(vectors: Vectors) -> pa.Schema:
    """What the image networks made of an image, found again by the hash of its bytes.

    Args:
      vectors: the vectors that they make, such as "query_emb" and "pixel_emb".
    """
    return pa.schema(
        [
            ("source", pa.string()),  # hash of the image's bytes as they came
            ("image_id", pa.string()),
            *fields(vectors),
            ("generator_fingerprint", pa.string()),
            ("pixel_fingerprint", pa.string()),
        ]
    )
