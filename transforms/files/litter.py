"""Files that systems and programs leave among those that people put into a folder."""

from transforms.files.image_suffixes import IMAGE_SUFFIXES

_FILES = {"thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "picasa.ini", "icon\r"}
_FOLDERS = {
    "__macosx",
    "@eadir",
    "#recycle",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
    "_temporary",
    "_delta_log",
}


def is_mark(path: str) -> bool:
    """Whether a file is hidden or about others, as Spark's _SUCCESS and Hadoop's .crc files are."""
    return path.rsplit("/", 1)[-1].startswith(("_", "."))


def is_litter(path: str) -> bool:
    """Whether nobody put a file among images to have it read.

    Args:
      path: below the folder that a person named, or inside a container; "" is no litter.

    What is a mark among logs is one here, too, but cameras begin the names of photos in Adobe RGB
    with an underscore (_DSC0001.JPG, _MG_0001.JPG). A hidden folder hides all that is in it.
    """
    *folders, name = path.split("/")
    suffix = name.rpartition(".")[2].lower()
    return (
        (is_mark(name) and not (name.startswith("_") and suffix in IMAGE_SUFFIXES))
        or name.lower() in _FILES
        or name.endswith("_$folder$")  # what Hadoop's S3 file system calls a folder
        or suffix == "crc"
        or any(f.lower() in _FOLDERS or (f.startswith(".") and f.strip(".")) for f in folders)
    )
