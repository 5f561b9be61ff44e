"""The Arrow schemas of the tables that mining writes, and of dead letters."""

import pyarrow as pa

SPLITS = ("train", "validation", "test")

IMAGES = pa.schema(
    [
        ("image_id", pa.string()),  # hex of the content hash of the decoded pixels
        ("keys", pa.list_(pa.string())),  # the names that logs and label files use, sorted
        ("split", pa.string()),
        ("labels", pa.list_(pa.string())),  # sorted; empty for an unlabelled image
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image", pa.binary()),  # JPEG or PNG, 8 bits, no alpha, upright
    ]
)

# What came of which bytes, so that a later run need not decode them again.
SOURCES = pa.schema(
    [
        ("source", pa.string()),  # hash of the bytes as they came
        ("image_id", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("signature", pa.binary(1536)),  # see transforms/duplicates/signature.py
        ("original", pa.bool_()),  # the clean image is those very bytes
        ("written", pa.bool_()),  # the clean image is in the table images
        ("image", pa.binary()),  # the clean image where it is neither
    ]
)

# How likely people look at a position of the results: fitted once, kept for later runs.
EXAMINATION = pa.schema(
    [
        ("position", pa.int32()),  # from 1 at the top; 0 is unknown
        ("examination", pa.int64()),  # in 1/65,536
    ]
)

PAIRS = pa.schema(
    [
        ("image_id", pa.string()),
        ("query_id", pa.int64()),
        ("split", pa.string()),
        ("clicks", pa.float64()),
        ("examined", pa.float64()),  # impressions that people looked at, about; at least clicks
        ("score", pa.float64()),  # lower bound of clicks / examined, or clicks
        ("weight", pa.float32()),  # share of the image's scores, in (0, 1]
    ]
)

QUERIES = pa.schema(
    [
        ("query_id", pa.int64()),  # hash of the normalised text: the same on every day
        ("query", pa.string()),
        ("language", pa.string()),  # ISO 639-1, "und" when it cannot be told
        ("clicks", pa.float64()),
        ("images", pa.int64()),
        ("train_clicks", pa.float64()),
        ("train_images", pa.int64()),
        ("users", pa.int64()),  # people who typed it so; 0 where none are known
        ("head", pa.bool_()),  # one of the best supported
        ("first_day", pa.date32()),  # null where the log has no times
        ("last_day", pa.date32()),
        ("variants", pa.list_(pa.string())),  # other spellings that count for it, sorted
    ]
)

QUERY_DAYS = pa.schema(
    [
        ("query_id", pa.int64()),
        ("day", pa.date32()),
        ("clicks", pa.float64()),
        ("impressions", pa.int64()),
    ]
)

# What two queries have in common, or, with "skip", surely have not.
EVIDENCE = ("co_click", "reformulation", "both", "skip")

QUERY_PAIRS = pa.schema(
    [
        ("query_a", pa.int64()),  # query_a < query_b
        ("query_b", pa.int64()),
        ("co_clicks", pa.float64()),
        ("reformulations", pa.float64()),
        ("skips", pa.float64()),  # images chosen for one and refused for the other
        ("weight", pa.float32()),  # 0 for a negative
        ("evidence", pa.string()),  # one of EVIDENCE
    ]
)

DEAD_LETTERS = pa.schema(
    [
        ("stage", pa.string()),
        ("key", pa.string()),
        ("reason", pa.string()),
        ("detail", pa.string()),
        ("payload", pa.binary()),  # the first bytes of what arrived
        ("run_id", pa.string()),
    ]
)
