"""Where images may be read from: below allowed folders, and, if asked for, from the internet."""

import dataclasses
import os
import stat
from collections.abc import Sequence
from typing import Any

from schemas.base import storage
from transforms.images.clean import ImageError
from transforms.images.fetch import FetchLimits, fetch


@dataclasses.dataclass(frozen=True)
class Places:
    """What paths in tables, and links among files, may lead to.

    Attributes:
      roots: folders, local or gs://, beside the one that a path starts from.
      max_bytes: of a file.
      http: limits of fetching, or None where URLs are refused.
    """

    roots: tuple[str, ...] = ()
    max_bytes: int = 64 << 20
    http: FetchLimits | None = None

    @classmethod
    def of(cls, config: Any) -> "Places":
        """Those of a job's flags."""
        limits = FetchLimits(
            config.max_image_bytes,
            config.fetch_seconds,
            tuple(config.fetch_private_hosts),
            config.max_requests_per_second / config.fetch_processes,
        )
        return cls(
            tuple(config.image_roots),
            config.max_image_bytes,
            limits if config.fetch_http else None,
        )

    @classmethod
    def of_json(cls, fields: dict) -> "Places":
        """The places of these fields, as JSON has them."""
        http = fields["http"] and FetchLimits(
            **{**fields["http"], "private_hosts": tuple(fields["http"]["private_hosts"])}
        )
        return cls(tuple(fields["roots"]), fields["max_bytes"], http)

    def read(self, path: str, base: str) -> bytes:
        """The bytes of an image that a table names.

        Args:
          path: relative to `base`, absolute or a URL.
          base: the folder of the table.

        Raises:
          ImageError: the path or URL is forbidden, or the file too large.
          OSError: it cannot be read.
        """
        scheme, colon, _ = path.partition("://")
        if colon and scheme.lower() in ("http", "https"):
            if self.http is None:
                raise ImageError("forbidden_url", "URLs are fetched with --fetch_http only")
            return fetch(path, self.http)
        if colon and f"{scheme}://" != storage.GCS_PREFIX:
            raise ImageError("forbidden_url", f"{scheme[:20]}: is no scheme of an image")
        whole = path if colon else os.path.join(base, path)
        return self.read_file(whole, (base,))

    def read_file(self, path: str, bases: Sequence[str]) -> bytes:
        """The bytes of a file below one of `bases` or of the roots; errors as of `read`."""
        if ".." in path.split("/") or "\0" in path:
            raise ImageError("forbidden_path", ".. is not allowed")
        roots = (*bases, *self.roots)
        if path.startswith(storage.GCS_PREFIX):
            if not any(_is_below(path, root) for root in roots):
                raise ImageError("forbidden_path", "outside of the allowed buckets and folders")
        else:
            path = self._local(path, roots)
        if (size := storage.size(path)) is not None and size > self.max_bytes:
            raise ImageError("too_many_bytes", f"{size:,} bytes")
        return storage.read_bytes(path)

    def _local(self, path: str, roots: Sequence[str]) -> str:
        """Where a local path leads in truth."""
        real = os.path.realpath(path)
        here = [os.path.realpath(r) for r in roots if not r.startswith(storage.GCS_PREFIX)]
        if not any(_is_below(real, root) for root in here):
            raise ImageError("forbidden_path", "it leads out of the allowed folders")
        if not stat.S_ISREG(os.stat(real).st_mode):  # reading a pipe would never end
            raise OSError("no regular file")
        return real


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")
