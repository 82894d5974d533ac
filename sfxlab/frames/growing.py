"""Files that another process is adding to (HDF5's single-writer-multiple-reader mode, SWMR).

HDF5 has one view of a file for the whole process. `H5Drefresh` brings it up to date for a dataset that is open once; of
one that is open twice it gives fill values from then on, or fails ("can't insert duplicate key", "pinned entries"). So
each is open once here, for all who use it, and closed with the last of them.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import h5py

from sfxlab.errors import InputError
from sfxlab.remote.addresses import is_address
from sfxlab.remote.hdf5 import node_at, remote_bytes

_OPENING = threading.Lock()
_OPEN: weakref.WeakValueDictionary[tuple[int, int], h5py.h5d.DatasetID] = weakref.WeakValueDictionary()
"""By the numbers that HDF5 gives an open file and an object in it."""


def is_growing(path: str) -> bool:
    """Whether a file says that a SWMR writer has it open, or had it when it died; none does on the network."""
    if is_address(path):
        return False
    with open(path, "rb") as file:
        start = file.read(12)
    # HDF5 file format specification, level 0A: superblock version 3, file consistency flags.
    return start[:9] == b"\x89HDF\r\n\x1a\n\x03" and bool(start[11] & 4)


def current_node(group: h5py.Group, path: str) -> Any:
    """What is at a path of an HDF5 file, links followed; a dataset that grows as it is at this moment.

    Raises `KeyError` where there is nothing, `InputError` where somebody else in this process has a growing dataset
    open.
    """
    if remote_bytes(group) is not None:
        return node_at(group, path)
    with _OPENING:  # or another thread would have a dataset open while it is refreshed here
        node = _opened(group, path)
        return _refreshed(node) if isinstance(node, h5py.Dataset) and node.file.swmr_mode else node


def length_written(dataset: h5py.Dataset, axis: int) -> int:
    """Length along an axis up to the last chunk that is there; writers may make room for many frames beforehand."""
    shape, chunks = dataset.shape, dataset.chunks
    if chunks is None or 0 in shape:
        return int(shape[axis])
    last = tuple((size - 1) // chunk * chunk for size, chunk in zip(shape, chunks, strict=True))
    if dataset.id.get_chunk_info_by_coord(last).byte_offset is not None:
        return int(shape[axis])
    end = 0

    def look(chunk: Any) -> None:
        nonlocal end
        end = max(end, chunk.chunk_offset[axis] + chunks[axis])

    dataset.id.chunk_iter(look)
    return min(end, int(shape[axis]))


def _opened(group: h5py.Group, path: str) -> Any:
    try:
        return node_at(group, path)
    except KeyError:
        # HDF5 opens a file that a link leads to as it opened the one with the link, which nobody may be writing.
        access = h5py.h5p.create(h5py.h5p.LINK_ACCESS)
        access.set_elink_acc_flags(h5py.h5f.ACC_SWMR_READ)
        found = h5py.h5o.open(group.id, path.encode(), access)
        return h5py.Dataset(found) if isinstance(found, h5py.h5d.DatasetID) else h5py.Group(found)


def _refreshed(dataset: h5py.Dataset) -> h5py.Dataset:
    key = _key(dataset.id)
    own = _OPEN.setdefault(key, dataset.id)
    if own is not dataset.id:
        dataset.id.close()
    file = h5py.h5i.get_file_id(own)
    if sum(_key(other) == key for other in h5py.h5f.get_obj_ids(file, h5py.h5f.OBJ_DATASET)) > 1:
        current = h5py.Dataset(own)
        raise InputError(
            "this dataset is being written, and something else in this process has it open, so that HDF5 cannot "
            "bring it up to date", path=current.file.filename, place=current.name,
            expected="no h5py.Dataset of it beside the frames", remedy="close that, or read the frames in a process of "
            "their own",
        )  # fmt: skip
    own.refresh()
    return h5py.Dataset(own, readonly=True)  # which keeps its shape, when others refresh too


def _key(dataset: h5py.h5d.DatasetID) -> tuple[int, int]:
    info = h5py.h5o.get_info(dataset)
    return int(info.fileno), int(info.addr)
