"""Files that appear whole or not at all: written aside under another name, flushed, and put in place."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from sfxlab.errors import RunError, SfxlabError


@contextmanager
def written_whole(
    path: Path, problem: str = "the file cannot be written", kind: type[SfxlabError] = RunError
) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of `path` once the block is left, whole and on the disk.

    Raises an error of this kind where it cannot be written; `path` is then as it was before.
    """
    with written_aside(path, problem, kind) as aside, open(aside, "xb") as file:
        yield file


@contextmanager
def written_aside(
    path: Path, problem: str = "the file cannot be written", kind: type[SfxlabError] = RunError
) -> Iterator[Path]:
    """A name beside `path` to make a file of, for libraries that open files themselves; as `written_whole`."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield aside
        _flush(aside)
        os.replace(aside, path)
        # A rename is on the disk only when its folder is; without this a crash could keep the mark and lose the part.
        _flush(path.parent)
    except OSError as error:
        raise kind(
            problem, path=path, found=error.strerror or error, remedy="free space or check permissions"
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
