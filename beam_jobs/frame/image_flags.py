"""Flags of every job that reads images as people have them: its config is a subclass."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from schemas.console.flags import flag

# What an image has to pass; an earlier run with others may have taken others.
LIMITS = ("max_image_pixels", "max_image_side", "max_image_bytes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageConfig:
    image_roots: tuple[str, ...] = flag(
        "Folders that paths in image tables, and links among image files, may lead to, beside "
        "the folder that they are in.",
        default=(),
    )
    fetch_http: bool = flag(
        "Fetch images that tables name by http(s) URL.", default=False, essential=True
    )
    fetch_seconds: float = flag("Seconds that one fetch may take.", default=20.0, above=0)
    fetch_private_hosts: tuple[str, ...] = flag(
        "Hosts that may be fetched from at private addresses and any port.", default=()
    )
    max_requests_per_second: float = flag(
        "Requests to one host, of all processes together; 0 for any number.",
        default=0.0,
        minimum=0,
        role="runtime",
    )
    fetch_processes: int = flag(
        "Processes of all workers, among which --max_requests_per_second is divided.",
        default=1,
        minimum=1,
        role="runtime",
    )
    max_image_pixels: int = flag("Larger images die.", default=100_000_000, minimum=1)
    max_image_side: int = flag(
        "Larger images are shrunk to this many pixels.", default=512, minimum=1
    )
    max_image_bytes: int = flag("Larger image files die.", default=64 << 20, minimum=1)
    max_image_seconds: int = flag(
        "CPU seconds after which decoding an image ends.", default=30, minimum=1
    )

    def same_limits(self, earlier: Mapping[str, Any]) -> bool:
        """Whether the settings of an earlier run's manifest have these limits."""
        return all(earlier.get(name) == getattr(self, name) for name in LIMITS)
