"""Which of the files in a folder are images, or hold some, and what each of them is.

A folder of photos has more in it than photos: what a system or a program left there, texts about
the photos, tables of labels, now and then a container beside files. Each file is taken as what its
name says it is. What is none of it is passed over and counted, but for files that may be images
without a suffix, or pages under the name of one: those are read, and die with a reason.
"""

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Sequence

from transforms.files.compression import split_name
from transforms.files.file_heads import named_format
from transforms.files.image_suffixes import IMAGE_SUFFIXES
from transforms.files.litter import is_litter
from transforms.files.webdataset import is_shard

IMAGE_FORMATS = ("auto", "files", "table", "tfrecord", "webdataset")
# Files about an image of the same name: captions, EXIF and XMP, Apple's edits, cameras' thumbnails.
_SIDECARS = {"txt", "json", "xmp", "aae", "thm", "xml", "yaml", "yml", "caption", "md5", "lrv"}


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is read of some files.

    Attributes:
      formats: path → files, table, tfrecord or webdataset; in the order of the paths.
      passed_over: what a file is instead → how many there are.
    """

    formats: dict[str, str]
    passed_over: Counter[str]


def choose(paths: Sequence[str], patterns: Sequence[str], format_: str) -> Choice:
    """Finds out by their names what files are.

    Args:
      paths: the files.
      patterns: folders, globs and files as a person named them: a file that is named itself is
        read whatever it is.
      format_: table, tfrecord or webdataset takes the files with names of this format, and where
        there are none all (but tar files always have such names); files takes all; auto takes each
        as what it is.
    """
    kept, passed_over = [], Counter[str]()
    for path in paths:
        if is_litter(_below(path, patterns)):
            passed_over["hidden or of a system"] += 1
        else:
            kept.append(path)
    formats = {path: format_of(path) for path in kept}
    if format_ not in ("auto", "files"):
        named = [path for path in kept if formats[path] == format_]
        named = named or (kept if format_ != "webdataset" else [])
        passed_over["in another format"] += len(kept) - len(named)
        return Choice(dict.fromkeys(named, format_), +passed_over)
    about = _about(kept, formats) - set(patterns)
    if about:
        passed_over["about the others"] += len(about)
    left = [path for path in kept if path not in about]
    return Choice({p: format_ if format_ == "files" else formats[p] for p in left}, +passed_over)


def format_of(path: str) -> str:
    """What a file's name says it is."""
    name = path.rsplit("/", 1)[-1].lower()
    if name.rpartition(".")[2] in IMAGE_SUFFIXES:
        return "files"
    if is_shard(name):
        return "webdataset"
    if ".tfrecord" in name:
        return "tfrecord"
    return "table" if named_format(name) else "files"


def _below(path: str, patterns: Iterable[str]) -> str:
    """The part of a path that nobody typed; of a file that somebody named, nothing."""
    found = path.rsplit("/", 1)[-1]
    for pattern in patterns:
        if path == pattern:
            return ""
        plain = pattern.rstrip("/") + "/"
        if not path.startswith(plain):  # a glob: up to the folder before its first wildcard
            plain = pattern[: min((pattern.find(c) for c in "*?[" if c in pattern), default=0)]
            plain = plain[: plain.rfind("/") + 1]
        if path.startswith(plain) and len(path) - len(plain) > len(found):
            found = path[len(plain) :]
    return found


def _about(paths: Sequence[str], formats: dict[str, str]) -> set[str]:
    """Files that say something about an image, or about a tar file, of the same name."""
    named = set()
    for path in paths:
        if path.rpartition(".")[2].lower() in IMAGE_SUFFIXES:
            named |= {path, os.path.splitext(path)[0]}
        elif formats[path] == "webdataset":
            named.add(split_name(path)[0].removesuffix(".tar"))
    found = set()
    for path in paths:
        whole, dot, suffix = path.rpartition(".")
        if not dot or suffix.lower() in IMAGE_SUFFIXES or formats[path] == "webdataset":
            continue
        # photo.txt, photo.jpg.json, and photo.jpg.supplemental-metadata.json of Google Takeout;
        # 00000.parquet and 00000_stats.json of img2dataset, which knows no case.
        names = {whole, whole.rpartition(".")[0], whole.lower().removesuffix("_stats")}
        names |= {whole.lower()} if formats[path] == "table" else set()
        if (suffix.lower() in _SIDECARS or formats[path] == "table") and names & named:
            found.add(path)
    return found
