"""A row that could not be used, with the reason: the same record for every job."""

from collections.abc import Sequence

import pyarrow as pa

from schemas.tables.mined import DEAD_LETTERS

PAYLOAD_BYTES = 256
DETAIL_CHARS = 300

# The closed list of reasons, each with what a person can do about it.
REASONS = {
    "unreadable_file": "The file could not be opened or parsed; check permissions and format.",
    "bad_row": "The row has not the columns of its file; repair the export.",
    "bad_encoding": "The text is no valid Unicode (invalid UTF-8 or a lone surrogate).",
    "empty_query": "Nothing is left of the query after normalisation.",
    "query_too_long": "The query is longer than --max_query_chars.",
    "id_collision": "The query has the 64-bit id of another; its text is left out, clicks are not.",
    "bad_clicks": "The clicks are no number.",
    "negative_clicks": "The clicks are below zero.",
    "bad_impressions": "The impressions are no number, or below zero.",
    "bad_position": "The position is no whole number from 1.",
    "bad_timestamp": "The timestamp is no number or time of docs/use/formats.md, or not surely.",
    "missing_image_key": "The row names no image.",
    "bad_split": "The split is none of train, validation (val), test.",
    "empty_image": "The image has no bytes.",
    "unreadable_image": "The image file, or the one that a row of a table names, cannot be opened.",
    "not_an_image": "The bytes are no image that is read: the detail names their format or damage.",
    "truncated_image": "The image ends early or is corrupt.",
    "too_many_pixels": "The image is larger than --max_image_pixels.",
    "too_many_bytes": "The image file is larger than --max_image_bytes.",
    "too_slow": "Decoding the image took more CPU time than --max_image_seconds.",
    "decoder_failed": "The decoder crashed, or wanted more memory than --max_image_pixels need.",
    "forbidden_path": "The path leads out of the table's folder; allow it with --image_roots.",
    "forbidden_url": "The URL is refused: no --fetch_http, no public address, or no http(s).",
    "inference_failed": "The model failed on this one row.",
    "schema_anomaly": "A field breaks the schema in schemas/; the detail names it.",
}


def dead_letters(
    stage: str,
    run_id: str,
    reason: str,
    keys: Sequence[str],
    details: Sequence[str],
    *,
    payloads: Sequence[bytes],
) -> pa.Table:
    """Builds dead letters of one reason.

    Args:
      stage: the stage where the rows died.
      run_id: its run.
      reason: one of `REASONS`.
      keys: [n] what names each row to its owner.
      details: [n] what was found; cut at 300 characters.
      payloads: [n] what arrived; cut at 256 bytes.

    Returns:
      [n] rows of `DEAD_LETTERS`.

    Raises:
      KeyError: the reason is not in the list.
    """
    if reason not in REASONS:
        raise KeyError(f"{reason!r} is no reason of schemas/tables/dead_letters.py; add it there")
    n = len(keys)

    def valid(text: str) -> str:
        # A key may hold the very surrogates that its row died of.
        return text[:DETAIL_CHARS].encode("utf-8", "replace").decode()

    columns = [
        [stage] * n,
        [valid(key) for key in keys],
        [reason] * n,
        [valid(detail) for detail in details],
        [bytes(payload[:PAYLOAD_BYTES]) for payload in payloads],
        [run_id] * n,
    ]
    return pa.table(columns, schema=DEAD_LETTERS)
