"""Runs of European XFEL at an address, as EXtra-data's `DataCollection`. Only to be imported where EXtra-data is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import h5py
from extra_data import DataCollection
from extra_data.exceptions import FileStructureError
from extra_data.file_access import FileAccess

from sfxlab.errors import InputError
from sfxlab.remote.hdf5 import open_remote_hdf5


def open_run_at(addresses: Sequence[str], folder: str) -> Any:
    """The run that some files are of, without those that are damaged. Raises `InputError`."""
    files = [file for file in map(_opened, addresses) if file is not None]
    if not files:
        raise InputError(
            "no file of the run can be read", path=folder, found=f"{len(addresses)} files",
            expected="HDF5 files of European XFEL",
        )  # fmt: skip
    return DataCollection(files, is_single_run=True)


def _opened(address: str) -> Any | None:
    try:
        # Past EXtra-data's register of open files, in which names are paths.
        return type.__call__(_RemoteFileAccess, address)
    except (OSError, KeyError, ValueError, RuntimeError, FileStructureError):
        return None


class _RemoteFileAccess(FileAccess):
    """EXtra-data's view of a file, where this lies on the network."""

    def __init__(self, address: str, _cache_info: object = None) -> None:
        self._address = address
        self._opened: h5py.File | None = None
        super().__init__(address)
        self.filename = address

    @property
    def file(self) -> h5py.File:
        """The open file."""
        if self._opened is None:
            self._opened = open_remote_hdf5(self._address)
        return self._opened

    def close(self) -> None:
        """Close it as soon as nothing of it is in use."""
        self._opened = None
