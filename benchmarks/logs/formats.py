"""Which formats of logs are read, what of them is good or dead, and how fast.

Writes a sample of every format in its true layout, some of its rows broken as rows of that
format break, and reads it with `--format auto`. Then reads a larger table of each kind, and
compares with pyarrow's own reader on the same file: a log cannot be read faster.

  ./run.sh bench formats --rows 2000 --speed_rows 1000000
"""

import bz2
import collections
import dataclasses
import functools
import gzip
import io
import json
import pathlib
import random
import sys
import tarfile
import tempfile
import time
import types
from collections.abc import Callable, Iterator

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.json as pajson
import pyarrow.parquet as pq

from schemas.base.errors import PhraseLensError
from schemas.console.flags import flag
from schemas.runs import command_line
from transforms.files.sniffing import format_of
from transforms.mining.events import LogRules, parse_events
from transforms.rows.layouts import FORMATS
from transforms.rows.log_fields import LOG_FIELDS
from transforms.rows.logs import plan_log, read_log
from transforms.rows.tabular import BadRows, read_part

UNIT_BYTES = 16 << 10  # small, so that samples have several units
STAGE = types.SimpleNamespace(name="bench", run_id="formats")
MAPPING = {field: field for field in LOG_FIELDS}
WORDS = ("red", "blue", "half dome", "shoe", "café", "富士山", "sunrise", "old", "bridge", "night")
WIT_HEADER = (
    "language\tpage_url\timage_url\tpage_title\tsection_title\thierarchical_section_title\t"
    "caption_reference_description\tcaption_attribution_description\t"
    "caption_alt_text_description\tmime_type\toriginal_height\toriginal_width\tis_main_image\t"
    "attribution_passes_lang_id\tpage_changed_recently\tcontext_page_description\t"
    "context_section_description"
)


@dataclasses.dataclass(frozen=True)
class Config:
    rows: int = flag("Rows of each sample.", default=2000, minimum=1)
    speed_rows: int = flag(
        "Rows of the tables whose reading is timed.", default=1_000_000, minimum=1
    )
    broken: float = flag("Share of broken rows.", default=0.03, minimum=0, maximum=1)
    seed: int = flag("Of the samples.", default=0, minimum=0, maximum=2**32 - 1)


class Sample:
    """Draws rows, and breaks some of them."""

    def __init__(self, config: Config):
        self.rows, self.broken = config.rows, config.broken
        self.random = random.Random(config.seed)

    def query(self) -> str:
        return " ".join(self.random.sample(WORDS, self.random.randint(1, 3)))

    def lines(self, line: Callable[[int], str], *faults: Callable[[bytes], bytes]) -> list[bytes]:
        """[rows] lines without their ends, of which a few have one of the faults."""
        found = []
        for row in range(self.rows):
            text = line(row).encode()
            # The first lines tell the layout: a file whose first is broken is another's.
            if row and self.random.random() < self.broken:
                text = self.random.choice(faults)(text)
            found.append(text)
        return found


def cut(line: bytes) -> bytes:
    """Without its last column."""
    return max(line.rpartition(mark)[0] for mark in (b"\t", b",", b" "))


def no_text(line: bytes) -> bytes:
    return b"\xff\xfe" + line


def joined(lines: list[bytes], header: str = "") -> bytes:
    return b"\n".join([header.encode(), *lines] if header else lines) + b"\n"


def last_column(text: bytes, delimiter: bytes = b"\t") -> Callable[[bytes], bytes]:
    return lambda line: line.rpartition(delimiter)[0] + delimiter + text


def tables(sample: Sample) -> dict[str, dict[str, bytes]]:
    """Generic tables, by what they are called in the report."""

    def tsv(row: int) -> str:
        return f"{sample.query()}\timg{row % 99}\t{row % 5 + 1}"

    def csv(row: int) -> str:
        return f'"{sample.query()}, ""{row}""",img{row % 99},{row % 5 + 1}'

    def record(row: int) -> dict:
        return {"query": sample.query(), "image": f"img{row % 99}", "clicks": row % 5 + 1}

    lines = sample.lines(tsv, cut, no_text, last_column(b"-1"), last_column(b"many"))
    header = "query\timage\tclicks"
    objects = sample.lines(
        lambda row: json.dumps(record(row)), lambda x: x[:-3], lambda _: b"[1]", lambda _: b"{}"
    )
    records = [record(row) for row in range(sample.rows)]
    for broken in records:
        if sample.random.random() < sample.broken:
            broken.update(sample.random.choice([{"query": " "}, {"clicks": -1}, {"image": ""}]))
    return {
        "table (TSV)": {"log.tsv": joined(lines, header)},
        "table (TSV, gzip)": {"log.tsv.gz": gzip.compress(joined(lines, header))},
        "table (CSV, bzip2)": {
            "log.csv.bz2": bz2.compress(
                joined(
                    sample.lines(csv, cut, no_text, last_column(b"", b",")), "query,image,clicks"
                )
            )
        },
        "table (JSONL, zstd)": {"log.jsonl.zst": packed(joined(objects), "zstd")},
        "table (TSV, snappy)": {"log.tsv.snappy": hadoop_snappy(joined(lines, header))},
        "table (Parquet)": {"log.parquet": parquet(pa.Table.from_pylist(records))},
    }


def packed(data: bytes, codec: str) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


def hadoop_snappy(data: bytes) -> bytes:
    """As Hadoop and Spark write .snappy: big-endian lengths, and blocks of 64 KiB."""
    blocks = []
    for start in range(0, len(data), 1 << 16):
        block = data[start : start + (1 << 16)]
        part = pa.Codec("snappy").compress(block, asbytes=True)
        blocks += [len(block).to_bytes(4, "big"), len(part).to_bytes(4, "big"), part]
    return b"".join(blocks)


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=500)
    return sink.getvalue().to_pybytes()


def clickture(sample: Sample) -> dict[str, bytes]:
    lines = sample.lines(
        lambda row: f"bgQg0sM1x5Jt{row % 99:02}\t{sample.query()}\t{row % 9 + 1}",
        *(cut, no_text, last_column(b"n/a")),
    )
    return {"Clickture-Lite.tsv": joined(lines)}


def unsplash(sample: Sample) -> dict[str, bytes]:
    lines = sample.lines(
        lambda row: (
            f"2020-02-{row % 28 + 1:02} 09:33:51.412\tdownload\t{sample.query()}\t"
            f"4IDqcNj8{row % 99:02}\tf0f3a1c8-{row % 50}\tUS"
        ),
        *(cut, no_text, lambda line: line[5:], lambda line: b"\t".join(line.split(b"\t")[1:])),
    )
    header = (
        "converted_at\tconversion_type\tkeyword\tphoto_id\tanonymous_user_id\tconversion_country"
    )
    photos = b"photo_id\tphoto_url\tphoto_image_url\n4IDqcNj800\thttps://u/p\thttps://u/i\n"
    return {"conversions.tsv000": joined(lines, header), "photos.tsv000": photos}


def wit(sample: Sample) -> dict[str, bytes]:
    def line(row: int) -> str:
        values = dict.fromkeys(WIT_HEADER.split("\t"), "") | {
            "language": "en",
            "image_url": f"https://upload.wikimedia.org/{row}.jpg",
            "page_title": sample.query(),
            "caption_reference_description": f'"{sample.query()}, ""{row}"""',
            "is_main_image": "true" if row % 3 == 0 else "false",
        }
        return "\t".join(values.values())

    lines = sample.lines(line, cut, lambda line: line.replace(b"https", b"\xff"), lambda _: b"en")
    return {"wit_v1.train.tsv.gz": gzip.compress(joined(lines, WIT_HEADER))}


def conceptual_captions(sample: Sample) -> dict[str, bytes]:
    lines = sample.lines(
        lambda row: f"{sample.query()}\thttp://lh6.ggpht.com/{row}.jpg", cut, no_text, cut
    )
    return {"Train_GCC-training.tsv": joined(lines)}


def coco_captions(sample: Sample) -> dict[str, bytes]:
    images = [{"id": i, "file_name": f"{i:012}.jpg", "height": 427} for i in range(99)]
    annotations = [
        {"image_id": row % 99, "id": row, "caption": sample.query()} for row in range(sample.rows)
    ]
    for broken in annotations:
        if sample.random.random() < sample.broken:
            broken.update(sample.random.choice([{"image_id": -1}, {"caption": None}]))
    document = {"info": {"year": 2017}, "images": images, "annotations": annotations}
    return {"captions_train2017.json": json.dumps(document).encode()}


def webvision(sample: Sample) -> dict[str, bytes]:
    queries = joined([f"{i} {sample.query()}".encode() for i in range(1, 99)])
    lines = sample.lines(
        lambda row: f"google/q{row % 98 + 1:04}/SlPnq{row}.jpg {row % 40}",
        *(cut, lambda _: b"google/q9999/x.jpg 0", lambda _: b"lost.jpg 0"),
    )
    return {"train_filelist_google.txt": joined(lines), "queries_google.txt": queries}


def open_images(sample: Sample) -> dict[str, bytes]:
    classes = joined([f'/m/{i:04},"{sample.query()}"'.encode() for i in range(99)])
    lines = sample.lines(
        lambda row: f"{row // 4:016x},verification,/m/{row % 99:04},{int(row % 7 > 1)}",
        *(cut, last_column(b"x", b","), lambda _: b"0000000000000000,machine,/m/none,1"),
    )
    header = "ImageID,Source,LabelName,Confidence"
    return {"train-annotations.csv": joined(lines, header), "class-descriptions.csv": classes}


def img2dataset(sample: Sample) -> dict[str, bytes]:
    rows = range(sample.rows)
    is_lost = [sample.random.random() < sample.broken for _ in rows]
    table = pa.table(
        {
            "url": [f"http://lh6.ggpht.com/{row}.jpg" for row in rows],
            "caption": [" " if row % 50 == 7 else sample.query() for row in rows],
            "key": [f"{row:09}" for row in rows],
            "status": ["failed_to_download" if lost else "success" for lost in is_lost],
        }
    )
    return {"00000.parquet": parquet(table)}


def webdataset(sample: Sample) -> dict[str, bytes]:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        for row in range(sample.rows):
            contents = {"jpg": b"\xff\xd8\xff", "json": b"{}", "txt": sample.query().encode()}
            if sample.random.random() < sample.broken:
                contents["txt"] = b"\xff"
            elif sample.random.random() < sample.broken:
                del contents["txt"]
            for suffix, data in contents.items():
                info = tarfile.TarInfo(f"{row:09}.{suffix}")
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return {"00000.tar": buffer.getvalue()}


def samples(config: Config) -> Iterator[tuple[str, dict[str, bytes]]]:
    """What each sample is called, and its files."""
    yield from tables(Sample(config)).items()
    writers = (clickture, unsplash, wit, conceptual_captions, coco_captions, webvision)
    for write in (*writers, open_images, img2dataset):
        yield write.__name__, write(Sample(config))
    yield "img2dataset (WebDataset)", webdataset(Sample(config))


def read_sample(paths: list[str]) -> tuple[str, int, collections.Counter]:
    """The format that was found, how many units, and rows by what became of them."""
    units, _ = plan_log("log", paths, "auto", MAPPING, UNIT_BYTES)
    counts: collections.Counter = collections.Counter()
    for unit in units:
        for batch in read_log(unit):
            if isinstance(batch, BadRows):
                counts[batch.reason] += len(batch.details)
            else:
                for name, count in parse_events(batch, STAGE, LogRules()).counts.items():
                    kind, _, what = name.partition(".")
                    if kind == "events" and what != "in":
                        counts[what.removeprefix("dropped_")] += count
    return format_of(units[0].format), len(units), counts


def report_samples(config: Config) -> None:
    print(f"{'sample':26}{'found':21}{'units':>6}{'rows':>7}{'good':>7}  left out, and why")
    found_formats = set()
    for name, files in samples(config):
        with tempfile.TemporaryDirectory() as folder:
            for file, data in files.items():
                pathlib.Path(folder, file).write_bytes(data)
            found, units, counts = read_sample([folder])
        found_formats.add(found)
        good = counts.pop("out", 0)
        left_out = sum(counts.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()))
        print(f"{name:26}{found:21}{units:6}{good + left_out:7}{good:7}  {left_out}: {reasons}")
    missing = set(FORMATS[1:]) - found_formats
    if missing:
        raise PhraseLensError("samples", "one of every format", f"Add {', '.join(missing)}.")


def timed(read: Callable[[], object]) -> float:
    """Seconds of the best of three."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        read()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def report_speed(config: Config) -> None:
    rows = range(config.speed_rows)
    columns = {
        "query": [f"query number {row % 50_000}" for row in rows],
        "image": [f"img{row % 90_000:08}" for row in rows],
        "clicks": [row % 9 for row in rows],
        "user": [f"user{row % 1000}" for row in rows],
        "timestamp": [1_700_000_000_000 + row for row in rows],
    }
    table = pa.table(columns)
    alone = {"use_threads": False}
    print(f"\n{'kind':22}{'M rows/s':>10}{'pyarrow':>10}{'ratio':>8}   (one thread each)")
    with tempfile.TemporaryDirectory() as folder:
        for name, format_, write, floor in (
            (
                "TSV",
                "tsv",
                lambda path: pacsv.write_csv(
                    table, path, pacsv.WriteOptions(delimiter="\t", quoting_style="none")
                ),
                lambda path: pacsv.read_csv(
                    path,
                    pacsv.ReadOptions(**alone),
                    pacsv.ParseOptions(delimiter="\t", quote_char=False),
                ),
            ),
            (
                "CSV, quoted",
                "csv",
                lambda path: pacsv.write_csv(table, path),
                lambda path: pacsv.read_csv(path, pacsv.ReadOptions(**alone)),
            ),
            (
                "JSON lines",
                "jsonl",
                lambda path: write_jsonl(table, path),
                lambda path: pajson.read_json(path, pajson.ReadOptions(**alone)),
            ),
            (
                "Parquet",
                "parquet",
                lambda path: pq.write_table(table, path),
                lambda path: pq.read_table(path, **alone),
            ),
        ):
            path = str(pathlib.Path(folder, name))
            write(path)
            ours = timed(functools.partial(read_all, path, format_))
            theirs = timed(functools.partial(floor, path))
            rates = config.speed_rows / ours / 1e6, config.speed_rows / theirs / 1e6
            print(f"{name:22}{rates[0]:10.2f}{rates[1]:10.2f}{theirs / ours:8.2f}")


def read_all(path: str, format_: str) -> None:
    for _ in read_part(path, format_, MAPPING):
        pass


def write_jsonl(table: pa.Table, path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in table.to_pylist())


def work(config: Config) -> None:
    report_samples(config)
    report_speed(config)


def run(argv: list[str] | None = None) -> int:
    return command_line.main(Config, "bench formats", __doc__, argv, work)


if __name__ == "__main__":
    sys.exit(run())
