"""Decodes images in a process of its own, which may crash, hang or swell without any harm.

Decoders are C code that reads what strangers wrote: an image of some bytes can ask for more
memory than there is, run for hours (a JPEG of thousands of scans) or crash. Nothing stops a
decoder within a thread. The process has a limit of memory and, for each image, of CPU time,
which the kernel keeps; where it ends, that image is dead and the next one gets a new process.
CPU time and not time on the clock, so that a busy machine kills no image.
"""

import contextlib
import dataclasses
import json
import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO

from transforms.images import formats as image_formats
from transforms.images.clean import CleanImage, ImageError, ImageLimits, clean_image

_COMMAND = "import sys; from transforms.images.process import serve; serve(sys.argv[1])"
_ROOT = str(Path(__file__).parents[2])
_LENGTH_BYTES = 8
_processes = threading.local()


def clean_safely(data: bytes, limits: ImageLimits) -> CleanImage:
    """`clean_image` in this thread's process.

    Raises:
      ImageError: as `clean_image`; or decoding took too long, too much memory, or crashed.
    """
    if getattr(_processes, "limits", None) != limits:
        _processes.limits, _processes.process = limits, ImageProcess(limits)
    return _processes.process.clean(data)


class ImageProcess:
    """A process that cleans one image at a time; it ends with this object."""

    def __init__(self, limits: ImageLimits):
        self._limits = limits
        self._process: subprocess.Popen | None = None

    def clean(self, data: bytes) -> CleanImage:
        """See `clean_safely`."""
        if len(data) > self._limits.max_bytes:
            raise ImageError("too_many_bytes", f"{len(data):,} bytes")
        process = self._process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _write(process.stdin, data)
            found, image = _read(process.stdout), _read(process.stdout)
        except (BrokenPipeError, EOFError):
            raise self._death(process) from None
        row = json.loads(found)
        if "reason" in row:
            raise ImageError(row["reason"], row["detail"])
        return CleanImage(**row | {"data": image, "signature": bytes.fromhex(row["signature"])})

    def _start(self) -> subprocess.Popen:
        path = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])
        # Threads of NumPy would take their share of the memory, and nothing here needs them.
        env = os.environ | {"PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, json.dumps(dataclasses.asdict(self._limits))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
        )
        assert process.stdout
        try:
            _read(process.stdout)  # it is ready
        except EOFError:
            raise RuntimeError(
                f"the image decoder did not start: status {process.wait()}"
            ) from None
        self._process = process
        return process

    def _death(self, process: subprocess.Popen) -> ImageError:
        self._process = None
        _close(process)
        status = process.returncode
        if status == -signal.SIGXCPU:
            return ImageError("too_slow", f"more than {self._limits.max_seconds} s of CPU time")
        name = signal.Signals(-status).name if status < 0 else f"status {status}"
        return ImageError("decoder_failed", f"its process ended: {name}")

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            process, self._process = self._process, None
            _close(process)

    __del__ = close


def _close(process: subprocess.Popen) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):
            if pipe:
                pipe.close()
    process.wait()


def _write(pipe: IO[bytes], data: bytes) -> None:
    pipe.write(len(data).to_bytes(_LENGTH_BYTES, "little"))
    pipe.write(data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> bytes:
    head = pipe.read(_LENGTH_BYTES)
    length = int.from_bytes(head, "little")
    data = pipe.read(length) if len(head) == _LENGTH_BYTES else b""
    if len(head) < _LENGTH_BYTES or len(data) < length:
        raise EOFError
    return data


def serve(limits_json: str) -> None:
    """The process: reads images from its input, and writes what became of them."""
    limits = ImageLimits(**json.loads(limits_json))
    # A decoder that prints must not speak into the answers.
    images, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    image_formats.register()  # all decoders, before memory is short
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    memory = _address_space() + limits.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    _write(answers, b"ready")
    while True:
        try:
            data = _read(images)
        except EOFError:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = math.ceil(used.ru_utime + used.ru_stime) + limits.max_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        row, image = _answer(clean_image, data, limits)
        _write(answers, json.dumps(row).encode())
        _write(answers, image)


def _answer(
    clean: Callable[[bytes, ImageLimits], CleanImage], data: bytes, limits: ImageLimits
) -> tuple[dict, bytes]:
    try:
        image = clean(data, limits)
    except ImageError as error:
        return {"reason": error.reason, "detail": error.detail}, b""
    row = vars(image) | {"signature": image.signature.hex()}
    return row, row.pop("data")


def _address_space() -> int:
    """Bytes of memory that this process has mapped."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    return pages * resource.getpagesize()
