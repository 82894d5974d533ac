"""Data of one measurement that are spread over several HDF5 files, joined where their master does not do it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from uuid import uuid4

import h5py

from sfxlab.errors import InputError, UnreachableError
from sfxlab.frames.growing import current_node
from sfxlab.geometry.nexus import numbered_data
from sfxlab.remote.addresses import beside, is_address


def joined_data(file: h5py.File, path: str) -> h5py.Dataset | None:
    """The datasets `data_000001`, `data_000002`… as the one dataset `data` that a master might also have held.

    A virtual dataset in memory, with the frames of all of them one after the other; None where `path` is not of that
    kind. It ends before the last data files where these are not there yet (`awaited_links`). A data file that a server
    does not give leaves a gap where its neighbours tell how many frames it has. Raises `InputError` naming master, link
    and target where a data file is missing or unlike the others.
    """
    group, names = _links(file, path)
    if not names:
        return None
    names = names[: len(names) - len(awaited_links(file, path))]
    parts = [_linked(group, link) for link in names]
    sources = [_source(group, link, parts, number) for number, link in enumerate(names)]
    first = next(part for part in parts if isinstance(part, h5py.Dataset))
    layout = h5py.VirtualLayout((sum(source.shape[0] for source in sources), *first.shape[1:]), first.dtype)
    start = 0
    for source in sources:
        if source.shape[1:] != first.shape[1:] or source.dtype != first.dtype:
            raise InputError(
                "the data files of this master differ", path=file.filename, place=source.path,
                found=f"{source.dtype} frames of {source.shape[1:]}",
                expected=f"{first.dtype} frames of {first.shape[1:]}", remedy="are they of one measurement?",
            )  # fmt: skip
        if source.shape[0]:
            layout[start : start + source.shape[0]] = source
            start += source.shape[0]
    # In memory only; HDF5 takes two files of one name for the same, and messages show the name.
    memory = h5py.File(f"{file.filename} (its links, {uuid4().hex})", "w", driver="core", backing_store=False)
    return memory.create_virtual_dataset(path, layout)


def awaited_links(file: h5py.File, path: str) -> list[str]:
    """Those at the end of the links that `joined_data` joins whose files are still to come; all but the first may."""
    group, names = _links(file, path)
    there = len(names)
    while there > 1 and _is_awaited(group, names[there - 1]):
        there -= 1
    return names[there:]


def _links(file: h5py.File, path: str) -> tuple[h5py.Group, list[str]]:
    folder, _, name = path.rpartition("/")
    group = file.get(folder or "/")
    return group, numbered_data(group, name) if isinstance(group, h5py.Group) and name not in group else []


def _is_awaited(group: h5py.Group, link: str) -> bool:
    target = group.get(link, getlink=True)
    if not isinstance(target, h5py.ExternalLink) or is_address(group.file.filename):
        return False
    folder = os.path.dirname(group.file.filename)
    places = (os.path.join(folder, target.filename), os.path.join(folder, os.path.basename(target.filename)))
    if not any(os.path.exists(place) for place in (*places, target.filename)):
        return True
    try:
        current_node(group, link)
    except KeyError as error:
        return "lock" in str(error) or "h5clear" in str(error)  # its writer lets nobody read yet
    return False


def _source(
    group: h5py.Group, link: str, parts: Sequence[h5py.Dataset | UnreachableError], number: int
) -> h5py.VirtualSource:
    """Where a part of the joined dataset comes from."""
    part = parts[number]
    if isinstance(part, h5py.Dataset):
        name = part.file.filename
        name = name if is_address(name) else os.path.abspath(name)
        return h5py.VirtualSource(name, part.name, part.shape, part.dtype)
    # Dectris numbers the images of all data files from 1 on.
    before = 0 if number == 0 else _image_number(parts[number - 1], "image_nr_high")
    after = None if number + 1 == len(parts) else _image_number(parts[number + 1], "image_nr_low")
    target = group.get(link, getlink=True)
    if before is None or after is None or after <= before + 1 or not isinstance(target, h5py.ExternalLink):
        raise part
    like = next(other for other in parts if isinstance(other, h5py.Dataset))
    shape = (after - before - 1, *like.shape[1:])
    return h5py.VirtualSource(beside(group.file.filename, target.filename), target.path, shape, like.dtype)


def _image_number(part: h5py.Dataset | UnreachableError, name: str) -> int | None:
    number = part.attrs.get(name) if isinstance(part, h5py.Dataset) else None
    return None if number is None else int(number)


def _linked(group: h5py.Group, link: str) -> h5py.Dataset | UnreachableError:
    try:
        dataset = current_node(group, link)
    except KeyError:
        dataset = None
    except UnreachableError as error:
        return error
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
