"""What the files of images are called."""

# What viewers show, by Pillow's names, with the suffixes of their files. Pillow opens more,
# PostScript among it, which runs a program. (Photos of several pictures, MPO, open as JPEG.)
SUFFIXES = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif", "mpo"),
    "PNG": ("png", "apng"),
    "GIF": ("gif",),
    "WEBP": ("webp",),
    "AVIF": ("avif", "avifs"),
    "HEIF": ("heic", "heif", "heics", "heifs", "hif"),
    "JXL": ("jxl",),
    "BMP": ("bmp", "dib"),
    "TIFF": ("tif", "tiff"),
    "ICO": ("ico",),
    "JPEG2000": ("jp2", "j2k", "jpc", "jpf", "jpx", "j2c"),
    "PPM": ("ppm", "pgm", "pbm", "pnm", "pfm"),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in SUFFIXES.values() for suffix in suffixes)
# Images of formats that are not read: those in a container, too, shall die with their name.
OTHER_SUFFIXES = frozenset(
    (
        *("psd", "svg", "pdf", "eps", "xcf", "exr", "hdr", "jxr"),
        *("dng", "cr2", "cr3", "crw", "nef", "arw", "srf", "raf", "orf", "rw2", "pef", "x3f"),
    )
)
