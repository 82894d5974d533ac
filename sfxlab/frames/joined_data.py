"""Data of one measurement that are spread over several HDF5 files, joined where their master does not do it."""

from __future__ import annotations

import os
from uuid import uuid4

import h5py

from sfxlab.errors import InputError
from sfxlab.frames.remote import is_address
from sfxlab.frames.remote_hdf5 import node_at
from sfxlab.geometry.nexus import numbered_data


def joined_data(file: h5py.File, path: str) -> h5py.Dataset | None:
    """The datasets `data_000001`, `data_000002`… as the one dataset `data` that a master might also have held.

    A virtual dataset in memory, with the frames of all of them one after the other; None where `path` is not of that
    kind. Raises `InputError` naming master, link and target where a data file is missing or unlike the others.
    """
    folder, _, name = path.rpartition("/")
    group = file.get(folder or "/")
    names = numbered_data(group, name) if isinstance(group, h5py.Group) else []
    if not names:
        return None
    parts = [_linked(group, link) for link in names]
    shape, dtype = parts[0].shape[1:], parts[0].dtype
    layout = h5py.VirtualLayout((sum(part.shape[0] for part in parts), *shape), dtype)
    first = 0
    for part in parts:
        if part.shape[1:] != shape or part.dtype != dtype:
            raise InputError(
                "the data files of this master differ", path=file.filename, place=part.file.filename,
                found=f"{part.dtype} frames of {part.shape[1:]}", expected=f"{dtype} frames of {shape}",
                remedy="are they of one measurement?",
            )  # fmt: skip
        name = part.file.filename
        source = h5py.VirtualSource(name if is_address(name) else os.path.abspath(name), part.name, part.shape)
        layout[first : first + len(part)] = source
        first += len(part)
    # In memory only; HDF5 takes two files of one name for the same, and messages show the name.
    memory = h5py.File(f"{file.filename} (its links, {uuid4().hex})", "w", driver="core", backing_store=False)
    return memory.create_virtual_dataset(path, layout)


def _linked(group: h5py.Group, link: str) -> h5py.Dataset:
    try:
        dataset = node_at(group, link)
    except KeyError:
        dataset = None
    if isinstance(dataset, h5py.Dataset) and dataset.ndim >= 3:
        return dataset
    target = group.get(link, getlink=True)
    found = f"{target.filename}, {target.path}" if isinstance(target, h5py.ExternalLink) else "nothing"
    raise InputError(
        "a data file of this master is missing, or has not what the link leads to", path=group.file.filename,
        place=f"{group.name}/{link}", found=f"a link to {found}", expected="that file in the folder of the master",
        remedy="copy it there; if it was never written, give a geometry file with "
        f"'data = {group.name}/%' and -g, which takes the files that are there",
    )  # fmt: skip
