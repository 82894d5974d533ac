"""Opening HDF5 files so that whatever is wrong with one is said in words."""

from __future__ import annotations

import difflib
import math
import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 - registers compression filters, once for the whole package
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import InputError
from sfxlab.frames.chunks import StoredArray
from sfxlab.frames.growing import current_node
from sfxlab.frames.joined_data import joined_data
from sfxlab.frames.virtual_data import VirtualArray
from sfxlab.remote.addresses import is_address
from sfxlab.remote.hdf5 import open_remote_hdf5

READ_ERRORS = (OSError, KeyError, ValueError, RuntimeError)
"""What h5py raises where a file cannot be read."""

_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 4: "szip", 32000: "LZF", 32001: "Blosc", 32004: "LZ4",
            32008: "bitshuffle", 32013: "ZFP", 32015: "Zstandard", 32026: "Blosc2"}  # fmt: skip
_LARGEST_CHUNK_CACHE = 256 * 2**20
_MOST_DATASETS = 128
_MOST_SOURCES = 32
"""Of a virtual dataset, kept open: a frame may need one for each module."""


def open_hdf5(path: str | Path) -> h5py.File:
    """Open a file or an address for reading, a file also while another program has it locked or writes it (SWMR).

    Of a growing file the frames count that are there when it is opened; open it again for those that came later.
    Raises `InputError` where it is missing, no HDF5 file, truncated, or not permitted.
    """
    if is_address(path):
        try:
            return open_remote_hdf5(str(path))
        except OSError as error:
            raise _opening_error(path, error) from error
    if not os.path.isfile(path):
        raise InputError(
            "this is a directory" if os.path.isdir(path) else "there is no such file", path=path,
            expected="an HDF5 file of frames", remedy="check the path",
        )  # fmt: skip
    try:
        return h5py.File(path, "r")
    except OSError as error:
        if "h5clear" in str(error):
            return _open_growing(path)
        if "lock" not in str(error):
            raise _opening_error(path, error) from error
    try:
        # Not from the start: one process cannot open a file both with and without locks.
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise _opening_error(path, error) from error


def _open_growing(path: str | Path) -> h5py.File:
    """Open a file that another program writes, or that one left open when it died."""
    try:
        # Without a chunk cache, in which the last chunk of a table would stay as it was when it was half full.
        return h5py.File(path, "r", swmr=True, rdcc_nbytes=0)
    except OSError as error:
        raise InputError(
            "another program writes this file in a way that cannot be read meanwhile", path=path, found=error,
            expected="a closed file, or one written with HDF5's single-writer-multiple-reader mode (SWMR)",
            remedy="wait until it is closed; where its writer died, 'h5clear -s FILE' may mend it",
        ) from error  # fmt: skip


def find_dataset(file: h5py.File, path: str) -> h5py.Dataset:
    """A dataset of an open file.

    Raises `InputError` naming the HDF5 path and what resembles it where it is not there.
    """
    try:
        node = current_node(file, path)
    except KeyError:
        joined = joined_data(file, path)
        if joined is None:
            raise _missing_path_error(file, path) from None
        return joined
    except (OSError, RuntimeError) as error:
        if is_address(file.filename):
            raise
        raise InputError(
            "this HDF5 path leads nowhere", path=file.filename, place=path, found=str(error), expected="a dataset",
            remedy="the file is damaged, or its links go round in a circle",
        ) from error  # fmt: skip
    if not isinstance(node, h5py.Dataset):
        raise InputError(
            "this HDF5 path is a group", path=file.filename, place=path, found=", ".join(node) or "an empty group",
            expected="a dataset", remedy="write the path of a dataset in the geometry file",
        )  # fmt: skip
    if _shape(node, path) is None:
        raise InputError("this dataset has no values", path=file.filename, place=path, expected="numbers")
    return node


def _shape(dataset: h5py.Dataset, path: str) -> tuple[int, ...] | None:
    try:
        shape: tuple[int, ...] | None = dataset.shape
    except READ_ERRORS as error:
        if "h5clear" not in str(error):
            raise
        raise InputError(
            "this virtual dataset is as long as its files, and one of these is being written",
            path=dataset.file.filename, place=path, found=str(error),
            expected="a virtual dataset of a given length, or files that are closed",
            remedy="wait until they are closed, or give the files instead, with a geometry file",
        ) from error  # fmt: skip
    return shape


def check_filters(dataset: h5py.Dataset, path: str) -> None:
    """Raise `InputError` naming the compression filter that is not there to read a dataset with."""
    settings = dataset.id.get_create_plist()
    for i in range(settings.get_nfilters()):
        code = settings.get_filter(i)[0]
        if not h5py.h5z.filter_avail(code):
            raise InputError(
                "a compression filter is missing", path=dataset.file.filename, place=path,
                found=f"HDF5 filter {code}{f' ({_FILTERS[code]})' if code in _FILTERS else ''}",
                expected="one of those of hdf5plugin",
                remedy="install a newer hdf5plugin, set HDF5_PLUGIN_PATH to where the filter is, or compress anew "
                "with 'h5repack'",
            )  # fmt: skip


def compression_name(dataset: h5py.Dataset) -> str:
    """The filters that a dataset was written with, `none` where there are none."""
    settings = dataset.id.get_create_plist()
    codes = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    return " + ".join(_FILTERS.get(code, f"filter {code}") for code in codes) or "none"


def _opening_error(path: str | Path, error: OSError) -> InputError:
    message = str(error)
    if "truncated file" in message:
        return InputError(
            "the file is truncated", path=path, found=message[message.find("truncated file") :].rstrip(")"),
            expected="a file as long as it says it is", remedy="copy it again, or wait until it is written",
        )  # fmt: skip
    if "signature not found" in message:
        return InputError(
            "this is not an HDF5 file", path=path, remedy="check the path",
            expected="an HDF5 file of frames; a list of files ends in .lst",
            found="something else" if is_address(path) else f"{os.path.getsize(path)} bytes of something else",
        )  # fmt: skip
    return InputError("the file cannot be opened", path=path, found=message, remedy="check its permissions")


def _missing_path_error(file: h5py.File, path: str) -> InputError:
    link = file.get(path, getlink=True)
    if isinstance(link, h5py.ExternalLink):
        return InputError(
            "this HDF5 path is a link to something that is missing", path=file.filename, place=path,
            found=f"a link to {link.path} of {link.filename}", expected=f"{link.filename} beside this file",
            remedy="copy the linked file too",
        )  # fmt: skip
    known = _dataset_paths(file)
    alike = [name for name in known if name.rsplit("/", 1)[-1] == path.rsplit("/", 1)[-1]]
    alike += difflib.get_close_matches(path, known, n=1, cutoff=0.4)
    return InputError(
        "the file has no such HDF5 path", path=file.filename, place=path,
        expected=f"one of {', '.join(known[:12])}{', …' if len(known) > 12 else ''}" if known else "a dataset",
        remedy=f"did you mean '{alike[0]}'? correct the path in the geometry file"
        if alike else "correct the path in the geometry file, or choose another data file",
    )  # fmt: skip


def _dataset_paths(file: h5py.File) -> list[str]:
    """Datasets of a file, links not followed."""
    found: list[str] = []

    def visit(name: str, node: Any) -> bool | None:
        if isinstance(node, h5py.Dataset):
            found.append(f"/{name}")
        return True if len(found) >= 500 else None

    file.visititems(visit)
    return found


def _with_chunk_cache(dataset: h5py.Dataset) -> h5py.Dataset:
    """The dataset, opened anew with room for the chunks of one frame where these hold several frames.

    HDF5 would otherwise decompress a whole chunk for each frame in it.
    """
    chunks = dataset.chunks
    if chunks is None or math.prod(chunks[:-2]) <= 1 or dataset.file.swmr_mode:
        return dataset
    per_frame = math.prod(-(-size // chunk) for size, chunk in zip(dataset.shape[-2:], chunks[-2:], strict=True))
    wanted = per_frame * math.prod(chunks) * dataset.dtype.itemsize
    if wanted > _LARGEST_CHUNK_CACHE:
        return dataset
    file, name = dataset.file, dataset.name
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(max(521, 101 * per_frame), wanted + 1, 0.75)
    dataset.id.close()
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))


class OpenFile:
    """A file and the datasets of it that are in use."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.file = open_hdf5(path)
        self.derived: dict[Any, Any] = {}
        """Whatever else was worked out from this file and is worth keeping as long as it is open."""
        self._arrays: dict[str, StoredArray] = {}
        self._numbers: dict[str, NDArray[Any]] = {}
        self._lock = threading.Lock()

    def dataset(self, path: str) -> h5py.Dataset:
        """A dataset by its HDF5 path."""
        return self.array(path).dataset

    def array(self, path: str) -> StoredArray:
        """A dataset by its HDF5 path, to read its pixels."""
        with self._lock:
            if path not in self._arrays:
                if len(self._arrays) >= _MOST_DATASETS:
                    self._arrays.clear()
                dataset = _with_chunk_cache(find_dataset(self.file, path))
                if dataset.is_virtual:
                    self._arrays[path] = VirtualArray(dataset, OpenFiles(_MOST_SOURCES))
                else:
                    self._arrays[path] = StoredArray(dataset)
            return self._arrays[path]

    def numbers(self, path: str) -> NDArray[Any]:
        """The whole of a small dataset of numbers, read once."""
        if path not in self._numbers:
            dataset = self.dataset(path)
            if dataset.dtype.kind not in "iuf":
                raise InputError(
                    "these are no numbers", path=self.path, place=path, found=str(dataset.dtype),
                    expected="one number, or one for each frame",
                    remedy="correct the path in the geometry file",
                )  # fmt: skip
            array = self.array(path)
            if isinstance(array, VirtualArray):
                self._numbers[path] = array.numbers()
            else:
                numbers = np.empty(dataset.shape, dtype=dataset.dtype)
                array.read(tuple(slice(0, size) for size in dataset.shape), numbers)
                self._numbers[path] = numbers
        return self._numbers[path]


class OpenFiles:
    """The few files read last, kept open. Not to be pickled."""

    def __init__(self, limit: int = 4) -> None:
        self._limit = limit
        self._files: OrderedDict[str, OpenFile] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, path: str) -> OpenFile:
        with self._lock:
            if path not in self._files:
                self._files[path] = OpenFile(path)
            self._files.move_to_end(path)
            while len(self._files) > self._limit:
                # Not closed: another thread may be reading. HDF5 closes it when the last reader lets go.
                self._files.popitem(last=False)
            return self._files[path]
