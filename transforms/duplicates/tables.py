"""The tables that near duplicates are found through, one step after another."""

import pyarrow as pa

from transforms.duplicates.signature import SIGNATURE_BYTES

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("signature", pa.binary(SIGNATURE_BYTES)),
    ]
)
# A row for each image that another one stands for; the others stand for themselves.
DUPLICATES = pa.schema([("image_id", pa.string()), ("representative", pa.string())])
UNIQUE = pa.schema(
    [
        ("image", pa.int64()),  # hash64 of the image_id
        ("image_id", pa.string()),
        ("size", pa.int64()),  # pixels
        ("signature", pa.binary(SIGNATURE_BYTES)),
    ]
)
KEYS = pa.schema(
    [("key", pa.int64()), ("band", pa.int8()), ("whole", pa.bool_()), ("image", pa.int64())]
)
PAIRS = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("band", pa.int8())])
HALF_PAIRS = pa.schema([("b", pa.int64()), *[field for field in UNIQUE if field.name != "image"]])
LINKS = pa.schema(
    [
        ("a", pa.string()),
        ("b", pa.string()),
        ("size_a", pa.int64()),
        ("size_b", pa.int64()),
        ("kind", pa.int8()),  # COPY or MARKED of transforms/duplicates/compare.py
        ("difference", pa.float32()),
    ]
)
