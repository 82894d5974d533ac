"""Reading one image of a file through fabio, so that whatever is wrong with it is said in words."""

from __future__ import annotations

import bz2
import gzip
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import InputError
from sfxlab.remote.addresses import is_address
from sfxlab.remote.files import RemoteFile

# In a notebook fabio has all messages of all libraries printed, those of a cluster too.
_handlers = logging.root.handlers[:]
import fabio  # noqa: E402

logging.root.handlers[:] = _handlers

_CBF_MAGIC = b"###CBF"
_CBF_DATA = b"\x0c\x1a\x04\xd5"
_LONGEST_CBF_HEADER = 2**20
_DECOMPRESS = {".gz": gzip.decompress, ".bz2": bz2.decompress}


@dataclass(frozen=True)
class Image:
    """One image of a file, and what the file says about it."""

    data: NDArray[Any]
    """(slow, fast)."""
    header: Mapping[str, Any]
    """As fabio gives it."""
    n_images: int
    """How many the file holds."""
    format: str
    """What fabio takes the file for, for example `cbf`."""


def read_image(path: str, number: int = 0) -> Image:
    """Read image `number` of a file, its first one being 0.

    Raises `InputError` where the file is missing, damaged (a wrong checksum included) or no image, or has no such
    image.
    """
    with _complaints() as complaints:
        try:
            with fabio.open(_source(path)) as file:
                n_images = int(file.nframes)
                if not 0 <= number < max(n_images, 1):
                    raise InputError(
                        "the file has no such image", path=path, found=f"number {number}", expected=f"{n_images} images"
                    )
                image = file if number == 0 else file.get_frame(number)
                data, header = image.data, dict(image.header)
                kind = type(file).__name__.removesuffix("Image").lower()
        except InputError:
            raise
        except Exception as error:
            # fabio's readers let through whatever a damaged file makes numpy, struct or zlib raise.
            raise _damage(path, f"{type(error).__name__}: {error}") from error
    if complaints or data is None:
        raise _damage(path, complaints[0] if complaints else "no pixels")
    if data.ndim != 2 or data.dtype.kind not in "iuf":
        raise InputError(
            "this is no diffraction image", path=path, found=f"{data.ndim} axes of {data.dtype}",
            expected="2 axes of numbers",
        )  # fmt: skip
    return Image(np.asarray(data, dtype=data.dtype.newbyteorder("=")), header, n_images, kind)


def _damage(path: str, found: str) -> InputError:
    return InputError(
        "the image cannot be read", path=path, found=found, expected="a whole CBF, SMV, TIFF or other image",
        remedy="copy it again; is it still being written?",
    )  # fmt: skip


def _source(path: str) -> Any:
    """What fabio is to open: the file, or the content of one that is compressed or on the network."""
    remote = is_address(path)
    if not remote and not os.path.isfile(path):
        raise InputError(
            "this is a directory" if os.path.isdir(path) else "there is no such file", path=path,
            expected="an image file", remedy="check the path",
        )  # fmt: skip
    stem, suffix = os.path.splitext(path)
    decompress = _DECOMPRESS.get(suffix.lower())
    if not remote and decompress is None:
        with open(path, "rb") as file:
            _check_start(path, file)
        return path
    if remote:
        at_address = RemoteFile(path)
        content = bytes(at_address.read_at(0, at_address.size))
    else:
        content = Path(path).read_bytes()
    content = content if decompress is None else decompress(content)
    _check_start(path, BytesIO(content))
    return fabio.fabioutils.BytesIO(content, fname=path if decompress is None else stem)


def _check_start(path: str, file: IO[bytes]) -> None:
    """Raise `InputError` where a CBF file ends before its pixels begin: fabio would look for them for ever."""
    start = file.read(len(_CBF_MAGIC))
    if start == _CBF_MAGIC and _CBF_DATA not in file.read(_LONGEST_CBF_HEADER):
        raise _damage(path, "a CBF header without pixels after it")


@contextmanager
def _complaints() -> Iterator[list[str]]:
    """What fabio reports as errors in this thread. It logs damage, such as a wrong checksum, and goes on."""
    messages: list[str] = []
    thread = threading.get_ident()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread and record.levelno >= logging.ERROR:
                messages.append(record.getMessage())

    logger, listener = logging.getLogger("fabio"), Listener()
    logger.addHandler(listener)
    try:
        yield messages
    finally:
        logger.removeHandler(listener)
