"""The formats of images that are read, by their content, and the names of others among them."""

import functools
import io
import struct
from collections.abc import Callable

import pi_heif
from PIL import AvifImagePlugin, Image, TiffImagePlugin
from pillow_jxl import JpegXLImagePlugin

from transforms.files.image_suffixes import SUFFIXES

FORMATS = tuple(SUFFIXES)

_RAW = "a camera's raw file", "develop it to JPEG"
_VIDEO = "MP4 or QuickTime video", "save a frame of it as JPEG"
_POSTSCRIPT = "PostScript (EPS)", "export it as PNG"
_METAFILE = "Windows metafile (EMF, WMF)", "export it as PNG"
_EXR = "OpenEXR", "export it as PNG"
_RADIANCE = "Radiance HDR", "export it as PNG"
_PHOTOSHOP = "Photoshop (PSD)", "export it as PNG"
_PNG = "export it as PNG"
_AS_TABLE = "name it .parquet, or give --image_format=table"
# Place in the file, what stands there, what the file is, and what to do about it.
_MAGICS = (
    (0, b"8BPS", *_PHOTOSHOP),
    (0, b"gimp xcf", "GIMP (XCF)", _PNG),
    (0, b"%PDF", "PDF", "save its pages as PNG"),
    (0, b"%!PS", *_POSTSCRIPT),
    (0, b"\xc5\xd0\xd3\xc6", *_POSTSCRIPT),
    (8, b"CR\x02", *_RAW),  # Canon CR2
    (0, b"IIRO", *_RAW),  # Olympus
    (0, b"IIRS", *_RAW),
    (0, b"MMOR", *_RAW),
    (0, b"IIU\0", *_RAW),  # Panasonic
    (0, b"FUJIFILMCCD-RAW", *_RAW),
    (0, b"FOVb", *_RAW),  # Sigma
    (6, b"HEAPCCDR", *_RAW),  # Canon CRW
    (0, b"\0MRM", *_RAW),  # Minolta
    (8, b"AVI ", "AVI video", _VIDEO[1]),
    (0, b"\x1a\x45\xdf\xa3", "WebM or Matroska video", _VIDEO[1]),
    (0, b"\0\0\x01\xba", "MPEG video", _VIDEO[1]),
    (0, b"\0\0\x01\xb3", "MPEG video", _VIDEO[1]),
    (0, b"FLV\x01", "Flash video", _VIDEO[1]),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "Windows Media video", _VIDEO[1]),
    (4, b"moov", *_VIDEO),
    (4, b"mdat", *_VIDEO),
    (8, b"WAVE", "WAV sound", "leave it out"),
    (0, b"ID3", "MP3 sound", "leave it out"),
    (0, b"OggS", "Ogg sound or video", "leave it out"),
    (0, b"v/1\x01", *_EXR),
    (0, b"#?RADIANCE", *_RADIANCE),
    (0, b"#?RGBE", *_RADIANCE),
    (0, b"DDS ", "DirectDraw texture (DDS)", _PNG),
    (0, b"\xabKTX ", "KTX texture", _PNG),
    (0, b"qoif", "QOI", _PNG),
    (0, b"BPG\xfb", "BPG", _PNG),
    (0, b"FLIF", "FLIF", _PNG),
    (0, b"II\xbc", "JPEG XR", _PNG),
    (0, b"\xff\xd8\xff\xf7", "JPEG-LS", _PNG),
    (0, b"icns", "Apple icon (ICNS)", _PNG),
    (0, b"\0\0\2\0", "cursor (CUR) or Targa (TGA)", _PNG),
    (0, b"\xd7\xcd\xc6\x9a", *_METAFILE),
    (40, b" EMF", *_METAFILE),
    (0, b"AT&TFORM", "DjVu", _PNG),
    (128, b"DICM", "DICOM", _PNG),
    (0, b"SIMPLE  =", "FITS", _PNG),
    (0, b"\x89HDF", "HDF5", _PNG),
    (0, b"\x93NUMPY", "NumPy array", _PNG),
    (0, b"PK\3\4", "ZIP archive (or a document that is one)", "unpack it"),
    (0, b"PK\5\6", "ZIP archive", "unpack it"),
    (0, b"Rar!", "RAR archive", "unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "7z archive", "unpack it"),
    (0, b"\x1f\x8b", "gzip", "decompress it, or name a tar file .tar.gz"),
    (0, b"BZh", "bzip2", "decompress it, or name a tar file .tar.bz2"),
    (0, b"\x28\xb5\x2f\xfd", "Zstandard", "decompress it, or name a tar file .tar.zst"),
    (0, b"\xfd7zXZ\0", "xz", "decompress it"),
    (257, b"ustar", "tar archive", "name it .tar, or give --image_format=webdataset"),
    (0, b"PAR1", "Parquet table", _AS_TABLE),
    (0, b"SQLite format 3\0", "SQLite", "leave it out"),
    (0, b"version https://git-lfs", "a pointer of Git LFS", "run git lfs pull"),
    (0, b"/annex/objects/", "a pointer of git-annex", "run git annex get"),
)
# What a box `ftyp` says, by the brand in it; any other brand is a video's.
_BRANDS = {
    b"crx ": _RAW,  # Canon CR3
    b"M4A ": ("MPEG-4 sound", "leave it out"),
    **dict.fromkeys(
        (b"avci", b"jpeg", b"jpgs", b"j2ki", b"vvic", b"unif", b"mif2", b"mif3", b"1pic"),
        ("HEIF without HEVC", "export it as JPEG"),
    ),
}
_TEXTS = (
    (b"<!doctype html", "a web page (HTML)", ""),
    (b"<html", "a web page (HTML)", ""),
    (b"<svg", "SVG", "export it as PNG"),
    (b"<?xml", "XML", ""),
)
_DNG_VERSION, _SUBFILE_TYPE, _SUBFILES = 50706, 254, 330
_MAX_IFD_ENTRIES = 4096


@functools.cache
def register() -> None:
    """Tells Pillow of the formats that are plugins', and of one thread for each decoder.

    The decoders' own threads would spend the time and the memory of one image many times over.
    """
    pi_heif.register_heif_opener(
        decode_threads=1, thumbnails=False, depth_images=False, aux_images=False
    )
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    JpegXLImagePlugin.DECODE_THREADS = 0
    Image.init()


def unsupported(data: bytes) -> tuple[str, str] | None:
    """What a file is that is an image or holds some, but is not read, and what to do about it.

    None where it is something else: a format that is read, or nothing that is known.
    """
    for place, magic, name, remedy in _MAGICS:
        if data.startswith(magic, place):
            return name, remedy
    if data[4:8] == b"ftyp" and not _is_read(data):
        return _BRANDS.get(data[8:12], _VIDEO)
    if _is_raw_tiff(data):
        return _RAW
    name, remedy = _text(data)
    return (name, remedy) if remedy else None


def described(data: bytes) -> str:
    """What bytes that are no image look like, for people."""
    start = f"starts with {data[:16]!r}"
    name, _ = _text(data)
    return f"{name}: {start}" if name else start


def _text(data: bytes) -> tuple[str, str]:
    """Name and remedy of a text; the first is empty where it is none that is known."""
    start = data[:1024].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if not start.startswith(b"<"):
        return "", ""
    return next(((name, remedy) for tag, name, remedy in _TEXTS if tag in start), ("", ""))


def openers(data: bytes) -> list[tuple[str, Callable[..., Image.Image]]]:
    """The formats that some bytes may be by their first ones, each with what opens it."""
    found: list[tuple[str, Callable[..., Image.Image]]] = []
    for name in FORMATS:
        opener, accept = Image.OPEN[name]
        if accept is None or accept(data[:16]) is True:
            found.append((name, opener))
    return found


def _is_read(data: bytes) -> bool:
    return bool(openers(data))


def _is_raw_tiff(data: bytes) -> bool:
    """Whether a TIFF file is a camera's (DNG, NEF, ARW): its first image is but a thumbnail."""
    if data[:4] not in (b"II*\0", b"MM\0*"):
        return False
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(data[:8])
        file = io.BytesIO(data)
        (count,) = struct.unpack_from("<H" if data[:1] == b"I" else ">H", data, tags.next)
        if count > _MAX_IFD_ENTRIES:
            return False
        file.seek(tags.next)
        tags.load(file)
        is_small = bool(tags.get(_SUBFILE_TYPE, 0) & 1)
        return _DNG_VERSION in tags or (is_small and _SUBFILES in tags)
    except Exception:  # a TIFF file whose tags cannot be read is no image either: its decoder says
        return False
