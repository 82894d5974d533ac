"""What a user names, taken apart: files, globs, directories and lists into single files and events of them."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from sfxlab.errors import InputError
from sfxlab.remote.addresses import is_address
from sfxlab.remote.files import content_at
from sfxlab.remote.listing import entries_in, entries_named

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf", ".cxi", ".nxs")
IMAGE_SUFFIXES = (".cbf", ".cbf.gz", ".cbf.bz2", ".img", ".smv", ".tif", ".tiff", ".edf", ".mccd")
LIST_SUFFIXES = (".lst", ".list", ".txt")

IsUnit = Callable[[Collection[str]], bool]
"""Whether a folder with files of these names is one input, as a European XFEL run is, not one to look through."""


@dataclass(frozen=True)
class Listed:
    """A file, or an event of it, and the list that named it."""

    path: str
    event: str | None = None
    list_path: str | None = None
    place: str | None = None

    def unknown_event(self, known: str) -> InputError:
        """The error where the file has no such event; `known` says which it has."""
        return InputError(
            "the list names an event that does not exist", path=self.list_path, place=self.place, found=self.event,
            expected=f"{known} of {self.path}",
            remedy="correct the list, or leave out the event to take them all",
        )  # fmt: skip


def expand(item: str, is_unit: IsUnit) -> Iterator[Listed]:
    """The files, and events of them, that one input names. Raises `InputError` where it names none."""
    if is_address(item):
        yield from _at_address(item, is_unit)
    elif os.path.isdir(item) and not is_unit(os.listdir(item)):
        yield from (Listed(os.path.abspath(os.path.join(item, name))) for name in _of_frames(item, os.listdir(item)))
    elif not os.path.exists(item) and glob.has_magic(item):
        paths = sorted(glob.glob(item, recursive=True))
        if not paths:
            raise InputError("no file matches", path=item, remedy="check the pattern; in a shell, quote it")
        for path in paths:
            yield from expand(path, is_unit)
    elif not os.path.exists(item):
        raise InputError(
            "there is no such file", path=item, expected="a file of frames, a glob, a directory or a .lst list",
            remedy=f"the working directory is {os.getcwd()}" if not os.path.isabs(item) else "check the path",
        )  # fmt: skip
    elif item.lower().endswith(LIST_SUFFIXES):
        yield from _read_list(item)
    else:
        yield Listed(os.path.abspath(item))


def _at_address(item: str, is_unit: IsUnit) -> Iterator[Listed]:
    for entry in entries_named(item):
        if entry.is_folder:
            names = [each.address.removeprefix(entry.address) for each in entries_in(entry.address)]
            found = [""] if is_unit(names) else _of_frames(entry.address, names)
            yield from (Listed(entry.address + name) for name in found)
        elif entry.address.lower().endswith(LIST_SUFFIXES):
            yield from _read_list(entry.address)
        else:
            yield Listed(entry.address)


def _of_frames(folder: str, all_names: Collection[str]) -> list[str]:
    """The names of HDF5 files, or else of images, in a folder."""
    names = sorted(name for name in all_names if not name.startswith("."))
    files, images = (
        [name for name in names if name.lower().endswith(suffixes)] for suffixes in (HDF5_SUFFIXES, IMAGE_SUFFIXES)
    )
    if files and images:
        raise InputError(
            "the directory has HDF5 files and images", path=folder, found=f"{files[0]}… and {images[0]}…",
            expected="frames of one kind", remedy="give a glob such as 'run1/*.cbf'",
        )  # fmt: skip
    if not files and not images:
        raise InputError(
            "the directory has no HDF5 files or images", path=folder, found=f"{len(names)} other files",
            expected=f"files ending in {', '.join((*HDF5_SUFFIXES, *IMAGE_SUFFIXES))}",
            remedy="give a glob such as 'run*/data_*.h5'",
        )  # fmt: skip
    return files or images


def _read_list(path: str) -> Iterator[Listed]:
    """Files of a list, one a line, each with or without an event (METHODS.md section 1.3)."""
    try:
        text = (content_at(path) if is_address(path) else Path(path).read_bytes()).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the list cannot be read", path=path, found=str(error), expected="text") from error
    found = False
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        found = True
        *head, last = line.strip().rsplit(None, 1)
        name, event = (head[0], last) if head and "//" in last else (line.strip(), None)
        place = f"line {number}"
        file = _named_in_list(path, name)
        if file is None:
            raise InputError(
                "the list names a file that does not exist", path=path, place=place, found=name,
                expected=f"a path from {os.getcwd()}, or from the list's own directory",
            )  # fmt: skip
        yield Listed(file, event, path, place)
    if not found:
        raise InputError("the list is empty", path=path, expected="one file a line, and an event where wanted")


def _named_in_list(path: str, name: str) -> str | None:
    """The file that a list means, None where it does not exist. Whether an address exists is not asked here."""
    if is_address(name):
        return name
    near = os.path.join(os.path.dirname(path), name)
    if is_address(near):
        return near
    found = next((candidate for candidate in (name, near) if os.path.exists(candidate)), None)
    return None if found is None else os.path.abspath(found)
