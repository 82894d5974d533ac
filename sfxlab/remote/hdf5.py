"""HDF5 files on the network, with the files that they refer to.

HDF5 reads them through a Python object. It opens whatever such a file refers to with that same object, that is, it
takes the file itself for its neighbour. So external links are followed here; `VirtualArray` does not need HDF5 either.
"""

from __future__ import annotations

import atexit
import weakref
from collections.abc import Iterator
from typing import Any

import h5py

from sfxlab.remote.addresses import beside
from sfxlab.remote.files import RemoteFile

_MOST_LINKS = 16
_BYTES: weakref.WeakValueDictionary[int, RemoteFile] = weakref.WeakValueDictionary()
"""By the number that HDF5 gives an open file."""


def open_remote_hdf5(address: str) -> h5py.File:
    """Open an HDF5 file on the network. Raises `InputError` where it cannot be had, `OSError` where it is no HDF5."""
    content = RemoteFile(address)
    file = h5py.File(content, "r")
    _BYTES[_number(file)] = content
    return file


def remote_bytes(node: h5py.Group | h5py.Dataset) -> RemoteFile | None:
    """The file on the network that a group or dataset is in, or None where it lies in a file system.

    Its `read_at` may be called from several threads, and without HDF5's lock.
    """
    return _BYTES.get(_number(node))


def node_at(group: h5py.Group, path: str) -> Any:
    """What is at a path of an HDF5 file, links followed. Raises `KeyError`, or `InputError` for a file linked to."""
    return group[path] if remote_bytes(group) is None else _followed(group, path, _MOST_LINKS)


def _followed(group: h5py.Group, path: str, most: int) -> Any:
    node: Any = group.file["/"] if path.startswith("/") else group
    parts = [part for part in path.split("/") if part not in ("", ".")]
    for i, part in enumerate(parts):
        if not isinstance(node, h5py.Group) or most == 0:
            raise KeyError(path)
        name, rest = part.encode(), "/".join(parts[i + 1 :])
        if not node.id.links.exists(name):
            raise KeyError(path)
        kind = node.id.links.get_info(name).type
        if kind == h5py.h5l.TYPE_SOFT:
            return _followed(node, f"{node.id.links.get_val(name).decode()}/{rest}", most - 1)
        if kind == h5py.h5l.TYPE_EXTERNAL:
            file, target = node.id.links.get_val(name)
            return _followed(_neighbour(node, file.decode()), f"{target.decode()}/{rest}", most - 1)
        node = node[part]
    return node


def _neighbour(node: h5py.Group | h5py.Dataset, name: str) -> h5py.File:
    """A file that another refers to by its way from there, kept open as long as that one."""
    content = remote_bytes(node)
    assert content is not None
    if name == ".":
        return node.file
    if name not in content.neighbours:
        content.neighbours[name] = open_remote_hdf5(beside(content.address, name))
    neighbour: h5py.File = content.neighbours[name]
    return neighbour


def _number(node: h5py.Group | h5py.Dataset) -> int:
    return int(h5py.h5o.get_info(node.id).fileno)


def _open_files() -> Iterator[h5py.File]:
    kinds = h5py.h5f.OBJ_FILE | h5py.h5f.OBJ_GROUP | h5py.h5f.OBJ_DATASET | h5py.h5f.OBJ_ATTR
    for found in h5py.h5f.get_obj_ids(h5py.h5f.OBJ_ALL, kinds):
        if found.valid:
            file = h5py.h5i.get_file_id(found)
            if file.get_access_plist().get_driver() == h5py.h5fd.fileobj_driver:
                yield h5py.File(file)


@atexit.register
def _close_all() -> None:
    # What is left open HDF5 closes itself after Python has ended, and then crashes for want of the Python object.
    for file in _open_files():
        file.close()
