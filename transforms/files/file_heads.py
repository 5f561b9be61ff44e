"""What a file is, by its beginning: a table and how it is written, or something else by its name.

People's files are not always what their names say: a .csv of a German Excel has semicolons,
Windows writes UTF-16, an API answers with one JSON array, and a failed download is a web page.
"""

import dataclasses
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.base import storage
from schemas.base.errors import PhraseLensError
from transforms.files.compression import compression_of, split_name
from transforms.files.encodings import open_text
from transforms.rows.json_blocks import json_object
from transforms.rows.text_blocks import DIALECTS

_HEAD_BYTES = 64 << 10
_HEAD_LINES = 100
_MIN_SHARE = 0.8  # of the first lines that must look as a layout says: some may be broken
_PARQUET_MAGIC = b"PAR1"
NAMED = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}


@dataclasses.dataclass(frozen=True)
class Head:
    """The beginning of a file.

    Attributes:
      path: the file.
      data: its first bytes, decompressed, as UTF-8.
      lines: the first whole lines, without blank ones.
      schema: of Parquet, else None.
      is_plain: whether the file's bytes are just the text: neither compressed nor in another
        encoding.
    """

    path: str
    data: bytes
    lines: tuple[bytes, ...]
    schema: pa.Schema | None = None
    is_plain: bool = True

    @property
    def columns(self) -> frozenset[str]:
        """Names in the header of Parquet."""
        return frozenset(self.schema.names if self.schema is not None else ())

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing in the file but white space."""
        return not self.data.strip()

    def has(self, delimiter: bytes, *columns: str) -> bool:
        """Whether the first line names these columns."""
        first = self.lines[0] if self.lines else b""
        names = {name.strip(b'"') for name in first.split(delimiter)}
        return {column.encode() for column in columns} <= names

    def like(self, pattern: bytes) -> bool:
        """Whether the first line and most others match a pattern."""
        matches = [re.fullmatch(pattern, line) is not None for line in self.lines]
        return bool(matches) and matches[0] and sum(matches) >= _MIN_SHARE * len(matches)


def read_head(path: str) -> Head:
    """Reads the beginning of a file.

    Raises:
      PhraseLensError: it cannot be read.
    """
    try:
        with open_text(path) as stream:
            data = b""
            while len(data) < _HEAD_BYTES and (piece := stream.read1(_HEAD_BYTES - len(data))):
                data += piece
            is_plain = stream.seekable()
        schema = None
        if data.startswith(_PARQUET_MAGIC):
            if not is_plain:
                raise OSError("Parquet that is compressed as a whole; decompress it")
            schema = open_parquet(path).schema_arrow
            str(schema)  # names are decoded late
            list(schema.names)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:  # of a column's name
        raise PhraseLensError(path, f"a readable file ({error})", "Check the file.") from error
    text = data.removeprefix(b"\xef\xbb\xbf")
    lines = text.split(b"\n")
    if len(data) == _HEAD_BYTES:
        lines = lines[:-1]  # cut
    whole = [line.removesuffix(b"\r") for line in lines[:_HEAD_LINES]]
    return Head(path, text, tuple(line for line in whole if line), schema, is_plain)


def open_parquet(path: str) -> pq.ParquetFile:
    """A Parquet file, with the types that others than Arrow wrote too: UUID, JSON, INT96."""
    return pq.ParquetFile(
        storage.open_input(path), coerce_int96_timestamp_unit="us", arrow_extensions_enabled=True
    )


def named_format(path: str) -> str | None:
    """The format that a file's name tells, or None when it tells of no table."""
    name, _ = split_name(path)
    return next((format_ for suffix, format_ in NAMED.items() if name.endswith(suffix)), None)


def table_kind(head: Head) -> str | None:
    """How a table is written: parquet, jsonl, json (one document), or one of DIALECTS.

    The content decides; the name only where that fits more than one. None where the file is no
    table.
    """
    if head.schema is not None:
        return "parquet"
    if foreign(head) is not None:
        return None
    named = named_format(head.path)
    if _is_json_document(head):
        return "json"
    if head.lines and (
        any(line.lstrip().startswith(b"{") for line in head.lines)
        if named == "jsonl"
        else json_object(head.lines[0]) is not None
    ):
        return "jsonl"
    return _delimited_kind(head, named) or named


def _is_json_document(head: Head) -> bool:
    """Whether a file is an array of objects, or objects that take several lines each."""
    data = head.data.lstrip()
    if re.match(rb"\[\s*(\{|\]\s*$)", data):
        return not head.lines or json_object(head.lines[0]) is None
    if not data.startswith(b"{") or json_object(data.split(b"\n", 1)[0]) is not None:
        return False
    text = data.decode("utf-8", "replace")
    try:
        _, stop = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        # The first object may be longer than what was read.
        return bool(re.match(rb"\{\s*\n\s*\"", data))
    return "\n" in text[:stop]


_DELIMITERS = {
    b"\t": "tsv",
    b"\x01": "ctrl-a text",
    b"|": "bar csv",
    b";": "semicolon csv",
    b",": "csv",
}


def _delimited_kind(head: Head, named: str | None) -> str | None:
    """One of DIALECTS whose delimiter the first line has; that of the name comes first."""
    if not head.lines:
        return None
    first = re.sub(rb'"[^"]*"', b"", head.lines[0])
    told = re.fullmatch(rb"sep=(.)", first)  # Excel's own
    own = DIALECTS[named].delimiter.encode() if named in DIALECTS else None
    if told is not None:
        delimiter = told[1]
    elif own is not None and own in first:
        delimiter = own
    else:
        delimiter = max(_DELIMITERS, key=first.count)
    if delimiter not in first or delimiter not in _DELIMITERS:
        return None
    kind = _DELIMITERS[delimiter]
    if delimiter in (b"\t", b"|") and _is_quoting(head, delimiter):
        kind = f"quoted {kind}"
    return kind


def _is_quoting(head: Head, delimiter: bytes) -> bool:
    """Whether quotation marks enclose fields, as CSV has them, and are no part of the text.

    People type quotation marks too. But no log has names of columns in them, and hardly a query
    has a doubled mark within a pair of them, which a writer of CSV makes of one mark.
    """
    fields = head.lines[0].split(delimiter)
    if all(re.fullmatch(rb'\s*"[^"]+"\s*', field) for field in fields):
        return True
    escaped = re.compile(
        rb'(?:^|%(d)b)"(?:[^"%(d)b]|"")*""(?:[^"%(d)b]|"")*"(?:$|%(d)b)'
        % {b"d": re.escape(delimiter)}
    )
    return any(b'""' in line and escaped.search(line) for line in head.lines)


_EXPORT = "Export it as Parquet, CSV or JSON lines."
_AGAIN = "Get the file again."
# What people give by mistake, by its first bytes: what it is, and what to do.
_FOREIGN = (
    (rb"(?i)\s*(<!doctype html|<html|<head|<body)", "an HTML page, perhaps an error page", _AGAIN),
    (
        rb"\s*<\?xml|\s*<[A-Za-z]+[ >/]",
        "an XML document",
        "Get the file itself, or " + _EXPORT.lower(),
    ),
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself", "Run `git lfs pull`."),
    (rb"\xd0\xcf\x11\xe0", "an old Excel workbook or Word document", "Save it as CSV (UTF-8)."),
    (rb"SQLite format 3\x00", "an SQLite database", "Export the table that you want as CSV."),
    (rb"(?s).{8}DUCK", "a DuckDB database", "Export the table: COPY … TO 'log.parquet'."),
    (rb"Obj\x01", "an Avro file", _EXPORT),
    (rb"ORC", "an ORC file", _EXPORT),
    (rb"ARROW1|FEA1", "an Arrow (Feather) file", _EXPORT),
    (rb"\xff\xff\xff\xff.\x00\x00\x00\x10\x00", "an Arrow stream", _EXPORT),
    (rb"PARE", "an encrypted Parquet file", "Export it without encryption."),
    (rb"SEQ[\x04-\x06]|RCF[\x00\x01]", "a Hadoop sequence file", _EXPORT),
    (rb"\x89HDF\r\n", "an HDF5 file", _EXPORT),
    (rb"\x93NUMPY", "a NumPy array", _EXPORT),
    (rb"\x80[\x02-\x05]", "a Python pickle", _EXPORT),
    (rb"%PDF", "a PDF document", _EXPORT),
    (rb"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it."),
    (rb"Rar!", "a RAR archive", "Unpack it."),
    (rb"\x1f\x9d", "a file of Unix compress (.Z)", "Decompress it."),
    (rb"\x89LZO", "an LZO file", "Decompress it."),
    (rb"-----BEGIN PGP|\x85[\x01-\x04]", "an encrypted file", "Decrypt it."),
    (rb"\xff\xd8\xff", "a JPEG image", "Give images with --images."),
    (rb"\x89PNG", "a PNG image", "Give images with --images."),
    (rb"GIF8", "a GIF image", "Give images with --images."),
    (rb"(?s)RIFF.{4}WEBP", "a WebP image", "Give images with --images."),
    (rb"(?s).{257}ustar", "a tar archive", "Unpack it."),
)
_CONTROLS = re.compile(rb"[\x00\x02-\x08\x0e-\x1a\x1c-\x1f]")


def foreign(head: Head) -> tuple[str, str] | None:
    """What a file is that is no table of text, and what to do about it; None for all else."""
    for pattern, what, remedy in _FOREIGN:
        if re.match(pattern, head.data):
            return what, remedy
    packed = compression_of(head.data[:16])
    if packed is not None:
        return f"a file that is compressed twice (with {packed} within)", "Decompress it once."
    if head.lines and len(_CONTROLS.findall(head.lines[0])) > len(head.lines[0]) // 20:
        return "binary data of no known kind", _EXPORT
    return None


def check_is_table(head: Head) -> None:
    """Fails where a file is something else than a table.

    Raises:
      PhraseLensError: says what it is.
    """
    found = foreign(head) if head.schema is None else None
    if found is not None:
        raise PhraseLensError(
            head.path, f"a table in Parquet, TSV, CSV or JSON lines, found {found[0]}", found[1]
        )


def looks_like_a_row(names: list[str]) -> bool:
    """Whether what stands in place of the names of columns looks like the values of a row."""
    value = r"[+-]?\d+([.,]\d+)?|\w+://\S+|\d{4}-\d\d-\d\d.*|.*\.(jpe?g|png|webp|gif)"
    stripped = [name.strip() for name in names if name.strip()]
    return len(set(stripped)) < len(stripped) or any(
        re.fullmatch(value, name, re.IGNORECASE) for name in stripped
    )
