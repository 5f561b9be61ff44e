import pyarrow as pa
import pytest

from transforms.files.compression import open_stream, split_name

TEXT = b"query\timage\n" + b"red shoe\ta\n" * 40
# As python-snappy 0.7.3 writes it: StreamCompressor and HadoopStreamCompressor.
FRAMED = bytes.fromhex(
    "ff060000734e61507059003200004530f1b1c40354717565727909696d6167650a7265642073686f650961"
    "fe0b00fe0b00fe0b00fe0b00fe0b00fe0b00b60b00"
)
HADOOP = bytes.fromhex(
    "000001c40000002ec40354717565727909696d6167650a7265642073686f650961"
    "fe0b00fe0b00fe0b00fe0b00fe0b00fe0b00b60b00"
)


def write(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    return str(tmp_path / name)


@pytest.mark.parametrize("data", [FRAMED, HADOOP, FRAMED + FRAMED, b""])
@pytest.mark.parametrize("name", ["log.tsv.snappy", "LOG.TSV.SZ"])
def test_snappy(tmp_path, name, data):
    expected = TEXT * (len(data) // len(FRAMED) or (data == HADOOP))
    with open_stream(write(tmp_path, name, data)) as stream:
        assert stream.read() == expected


@pytest.mark.parametrize(
    "data",
    [
        FRAMED[:-1],
        HADOOP[:-1],
        HADOOP[:4],
        b"no snappy at all" * 10,
        FRAMED[:20] + b"\x00" + FRAMED[21:],
        FRAMED[:10] + b"\x02" + FRAMED[11:],
    ],
)
def test_damaged_snappy_is_an_error(tmp_path, data):
    with (
        open_stream(write(tmp_path, "log.snappy", data)) as stream,
        pytest.raises(OSError, match="snappy"),
    ):
        stream.read()


@pytest.mark.parametrize("compression", ["gzip", "bz2", "zstd"])
def test_what_lies_before_the_damage_is_read(tmp_path, compression):
    lines = b"".join(b"%d\n" % (i * 7919 % 1_000_003) for i in range(300_000))
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, compression) as stream:
        stream.write(lines)
    data = sink.getvalue().to_pybytes()
    suffix = {"gzip": ".gz", "bz2": ".bz2", "zstd": ".zst"}[compression]
    path = write(tmp_path, "log" + suffix, data[: len(data) * 9 // 10])
    pieces = []

    def read():
        with open_stream(path) as stream:
            while piece := stream.read1(1 << 20):
                pieces.append(piece)

    with pytest.raises((OSError, pa.ArrowException)):
        read()
    found = b"".join(pieces)
    assert lines.startswith(found)
    assert len(found) > len(lines) // 4


def test_split_name():
    assert split_name("A/Log.TSV.GZ") == ("a/log.tsv", "gzip")
    assert split_name("log.tsv") == ("log.tsv", None)
