"""Images as people have them."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageCms

from schemas.base.errors import PhraseLensError
from tests.inputs.case import Case
from tests.support.inputs import icc_profiles
from tests.support.inputs.image_files import HEIC, animation, encode, photo, png16, rotated_jpeg
from transforms.images import formats as image_formats
from transforms.images.clean import ImageError, ImageLimits, clean_image
from transforms.images.plan import plan_images
from transforms.images.readers import read_unit
from transforms.images.units import IMAGE_FIELDS
from transforms.rows.tabular import BadRows

MAPPING = {field: field for field in IMAGE_FIELDS}
PHOTO = encode(photo(), "PNG")
image_formats.register()


def _cleaned(data: Callable[[], bytes]) -> Callable[[Path], str]:
    """Reads one image, and says how large it is, or of what it died."""

    def run(folder: Path) -> str:
        try:
            image = clean_image(data(), ImageLimits())
        except ImageError as error:
            return f"dead, {error.reason}: {error.detail}"
        same = " as it is" if image.data == data() else ""
        return f"read{same}, {image.width} x {image.height}"

    return run


def _colour(mode: str, value, profile: bytes | None, kind: str = "PNG") -> Callable[[Path], str]:
    """Reads an image of one colour, and says which it is in sRGB, to the nearest 5 levels."""

    def run(folder: Path) -> str:
        data = encode(Image.new(mode, (24, 16), value), kind, icc_profile=profile)
        with Image.open(io.BytesIO(clean_image(data, ImageLimits()).data)) as image:
            shown = np.array(image.convert("RGB").getpixel((12, 8)))
        return "sRGB " + ", ".join(str(n) for n in (shown / 5).round().astype(int) * 5)

    return run


def _folder(*names: str, **options) -> Callable[[Path], str]:
    """Fills a folder, and says which images are read from it."""

    def run(folder: Path) -> str:
        for name in names:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir()
            elif name.endswith(".tar"):
                with tarfile.open(path, "w") as file:
                    for member in ("t.png", "._t.png", "__MACOSX/._t.png"):
                        info = tarfile.TarInfo(member)
                        info.size = len(PHOTO)
                        file.addfile(info, io.BytesIO(PHOTO))
            elif name.endswith(".parquet"):
                images = pa.array([PHOTO], pa.binary())
                pq.write_table(pa.table({"key": ["q"], "image": images}), path)
            elif name.endswith(".csv"):
                path.write_text("photo,label\na,shoe\n")
            else:
                path.write_bytes(PHOTO)
        args = [str(folder)], options.get("format_", "auto"), MAPPING, "name"
        try:
            plan = plan_images("images", *args)
        except PhraseLensError as error:
            return f"refused: {error}".replace(str(folder), "photos")
        keys: list[str] = []
        for unit in plan.units:
            for batch in read_unit(unit):
                assert not isinstance(batch, BadRows)
                keys += batch["key"].to_pylist()
        return f"read: {', '.join(sorted(keys))} ({plan.fact})"

    return run


def _flipped(place: int) -> bytes:
    data = bytearray(PHOTO)
    data[place] ^= 1
    return bytes(data)


def _lab() -> bytes:
    spaces = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    lab = ImageCms.profileToProfile(photo(), *spaces, outputMode="LAB")
    lab.info.clear()
    return encode(lab, "TIFF")


def _pages() -> bytes:
    return encode(photo(), "TIFF", save_all=True, append_images=[photo(1)])


_NOT = "dead, not_an_image: {} is not read: {}".format
_MOVIE = b"\0\0\0\x18ftypisom" + bytes(60)
_CLEAN = "clean means readable"
CASES = [
    Case(_CLEAN, "PNG, JPEG", "read as it is, 24 x 16", _cleaned(lambda: PHOTO)),
    Case(
        _CLEAN,
        "PNG with one flipped bit in its pixels",
        "dead, truncated_image: OSError: broken data stream when reading image file",
        _cleaned(lambda: _flipped(PHOTO.index(b"IDAT") + 9)),
    ),
    Case(
        _CLEAN,
        "PNG with one flipped bit in a checksum",
        "dead, truncated_image: the checksum of chunk IDAT at byte 33 is wrong",
        _cleaned(lambda: _flipped(PHOTO.index(b"IEND") - 5)),
    ),
    Case(
        _CLEAN,
        "PNG without its end, all pixels there",
        "read, 24 x 16",
        _cleaned(lambda: PHOTO[:-12]),
    ),
    Case(
        _CLEAN,
        "JPEG that was cut",
        "dead, truncated_image: OSError: image file is truncated (4 bytes not processed)",
        _cleaned(lambda: encode(photo(1, 200, 200), "JPEG")[:-200]),
    ),
    Case(
        _CLEAN,
        "PNG with a page behind it",
        "read, 24 x 16",
        _cleaned(lambda: PHOTO + b"<html>"),
    ),
    Case(
        _CLEAN,
        "16-bit PNG",
        "read, 24 x 16",
        _cleaned(lambda: png16(np.zeros((16, 24), np.uint16))),
    ),
    Case("litter", "`._a.jpg`, `.DS_Store`, `.a.jpg.crc`", "read: a.jpg (images: 1 files (files); "
         "passed over: 3 hidden or of a system)",
         _folder("a.jpg", "._a.jpg", ".DS_Store", ".a.jpg.crc")),
    Case("litter", "`Thumbs.db`, `desktop.ini`, `__MACOSX/a.jpg`, `@eaDir/a.jpg`",
         "read: a.jpg (images: 1 files (files); passed over: 4 hidden or of a system)",
         _folder("a.jpg", "Thumbs.db", "desktop.ini", "__MACOSX/a.jpg", "@eaDir/a.jpg")),
    Case("litter", "`_SUCCESS`, but `_DSC0001.JPG` of a camera in Adobe RGB",
         "read: _DSC0001.JPG (images: 1 files (files); passed over: 1 hidden or of a system)",
         _folder("_DSC0001.JPG", "_SUCCESS")),
    Case("litter", "empty folders", "read: a.jpg (images: 1 files (files))",
         _folder("a.jpg", "b/", "c/d/")),
    Case("litter", "`a.txt`, `a.json`, `a.jpg.json`, `a.xmp` beside `a.jpg`",
         "read: a.jpg (images: 1 files (files); passed over: 4 about the others)",
         _folder("a.jpg", "a.txt", "a.json", "a.jpg.json", "a.xmp")),
    Case("litter", "nothing but litter",
         "refused: --images photos: expected images, found none but files that are 2 hidden or of "
         "a system. Check the path; docs/use/formats.md says what is read and what is passed over.",
         _folder("Thumbs.db", "._a.jpg")),
    Case("containers beside files", "one `.tar` among photos",
         "read: a.jpg, b.png, t (images: 3 files (2 files, 1 webdataset))",
         _folder("a.jpg", "b.png", "stray.tar")),
    Case("containers beside files", "a Parquet table with images among photos",
         "read: a.jpg, q (images: 2 files (1 files, 1 table))",
         _folder("a.jpg", "more.parquet")),
    Case("containers beside files", "`labels.csv` among photos",
         "read: a.jpg, b.jpg (images: 2 files (files); passed over: 1 without the columns of "
         "images)", _folder("a.jpg", "b.jpg", "labels.csv")),
    Case("containers beside files", "the same with `--image_format webdataset`",
         "read: t (images: 1 files (webdataset); passed over: 1 in another format)",
         _folder("a.jpg", "stray.tar", format_="webdataset")),
    Case("colour", "Adobe RGB 117, 199, 75", "sRGB 40, 200, 60",
         _colour("RGB", (117, 199, 75), icc_profiles.ADOBE_RGB)),
    Case("colour", "the same in JPEG, as cameras write it", "sRGB 40, 200, 60",
         _colour("RGB", (117, 199, 75), icc_profiles.ADOBE_RGB, "JPEG")),
    Case("colour", "Display P3 117, 199, 75, as phones write it", "sRGB 85, 200, 45",
         _colour("RGB", (117, 199, 75), icc_profiles.DISPLAY_P3)),
    Case("colour", "grey 128 with a linear profile", "sRGB 190, 190, 190",
         _colour("L", 128, icc_profiles.GREY_10)),
    Case("colour", "CMYK with a profile by which all ink is a grey", "sRGB 175, 175, 175",
         _colour("CMYK", (0, 255, 255, 0), icc_profiles.cmyk(200, 128, 128), "TIFF")),
    Case("colour", "CMYK 0, 255, 255, 0 without a profile", "sRGB 255, 0, 0",
         _colour("CMYK", (0, 255, 255, 0), None, "TIFF")),
    Case("colour", "a broken profile, or one of other channels: as without", "sRGB 115, 200, 75",
         _colour("RGB", (117, 199, 75), icc_profiles.BROKEN)),
    Case("colour", "an sRGB profile: as without", "sRGB 115, 200, 75",
         _colour("RGB", (117, 199, 75), icc_profiles.SRGB_PROFILE)),
    Case("formats", "HEIC", "read, 24 x 16", _cleaned(lambda: HEIC)),
    Case("formats", "JPEG XL", "read, 24 x 16", _cleaned(lambda: encode(photo(), "JXL"))),
    Case("formats", "AVIF", "read, 24 x 16", _cleaned(lambda: encode(photo(), "AVIF"))),
    Case("formats", "WebP, animated: the first picture", "read, 24 x 16",
         _cleaned(lambda: animation("WEBP"))),
    Case("formats", "TIFF of two pages: the first", "read, 24 x 16", _cleaned(_pages)),
    Case("formats", "TIFF in Lab", "read, 24 x 16", _cleaned(_lab)),
    Case("formats", "JPEG that EXIF turns", "read, 16 x 24",
         _cleaned(lambda: rotated_jpeg(photo(), 6))),
    Case("formats", "HEIC that was cut",
         "dead, truncated_image: ValueError: Invalid input: Unexpected end of file: Extent in iloc "
         "box references data outside of file bounds (points to file position 416)",
         _cleaned(lambda: HEIC[:-20])),
    Case("formats", "Photoshop", _NOT("Photoshop (PSD)", "export it as PNG"),
         _cleaned(lambda: b"8BPS" + bytes(60))),
    Case("formats", "Canon CR2; also CR3, DNG, NEF, ARW, RAF, ORF, RW2",
         _NOT("a camera's raw file", "develop it to JPEG"),
         _cleaned(lambda: b"II*\0\x10\0\0\0CR\2\0" + bytes(60))),
    Case("formats", "SVG", _NOT("SVG", "export it as PNG"),
         _cleaned(lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>")),
    Case("formats", "PDF", _NOT("PDF", "save its pages as PNG"), _cleaned(lambda: b"%PDF-1.7\n")),
    Case("formats", "MP4", _NOT("MP4 or QuickTime video", "save a frame of it as JPEG"),
         _cleaned(lambda: _MOVIE)),
    Case("formats", "ZIP", _NOT("ZIP archive (or a document that is one)", "unpack it"),
         _cleaned(lambda: b"PK\3\4" + bytes(60))),
    Case("formats", "a page under the name of an image",
         "dead, not_an_image: a web page (HTML): starts with b'<!DOCTYPE html><'",
         _cleaned(lambda: b"<!DOCTYPE html><html>404</html>")),
]  # fmt: skip
