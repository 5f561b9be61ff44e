"""Looks for texts in bytes that hold others: in base64, compressed, pickled, one in the other."""

import base64
import binascii
import bz2
import contextlib
import re
import zlib
from collections.abc import Iterable, Iterator

# What is shorter holds no secret of these tests.
_BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")


def layers(data: bytes) -> Iterator[bytes]:
    """The bytes, what is written in them in base64, and all of that decompressed."""
    yield data
    if not data:
        return
    for opened in (bz2.decompress, zlib.decompress):
        with contextlib.suppress(OSError, ValueError, zlib.error):
            yield from layers(opened(data))
    for found in _BASE64.findall(data):
        with contextlib.suppress(binascii.Error):
            yield from layers(base64.b64decode(found + b"=" * (-len(found) % 4)))


def forms(secret: bytes) -> set[bytes]:
    """How bytes may be written: as they are, in hex, and in base64 at any place of a text."""
    found = {secret, secret.hex().encode(), secret.hex().upper().encode()}
    with contextlib.suppress(ValueError):
        found.add(bytes.fromhex(secret.decode()))
    for shift in range(3):
        # The first and the last digits depend on what stands beside it.
        whole = base64.b64encode(b"\0" * shift + secret)
        found.add(whole[-(-4 * shift // 3) : len(secret) * 4 // 3 - 2])
    return found


def shown(data: bytes, secrets: Iterable[bytes]) -> set[bytes]:
    """The secrets that can be read in some bytes."""
    every = b"\n".join(layers(data))
    return {secret for secret in secrets if any(form in every for form in forms(secret))}
