"""Opening a run of European XFEL with EXtra-data, in a directory or at an address."""

from __future__ import annotations

import gc
import os
import warnings
from pathlib import Path
from typing import Any

from sfxlab.errors import InputError, SfxlabWarning
from sfxlab.remote.addresses import is_address
from sfxlab.remote.listing import entries_in

_MANY_FILES = 64
"""From here on processes of their own pay for looking into files."""


def open_run(path: str) -> Any:
    """The run directory, or one at an address that ends in a slash, as EXtra-data's `DataCollection`.

    Warns (`SfxlabWarning`) of files that cannot be read. Raises `InputError`.
    """
    try:
        import extra_data  # noqa: F401
    except ImportError:
        raise InputError(
            "run directories of European XFEL are read with EXtra-data, which is not installed", path=path,
            remedy="pip install 'sfxlab[euxfel]', or write a virtual CXI file where EXtra-data is",
        ) from None  # fmt: skip
    try:
        # EXtra-data remembers how files were for as long as an object refers to them, and its objects form cycles.
        gc.collect()
        run, left_out = _open_address(path) if is_address(path) else _open_directory(path)
    except InputError:
        raise
    except Exception as error:
        # EXtra-data raises a bare Exception where no file can be read.
        raise InputError(
            "the run directory cannot be read", path=path, found=str(error), expected="HDF5 files of European XFEL"
        ) from error
    if left_out:
        warnings.warn(
            f"{path}: {len(left_out)} files cannot be read and are left out ({min(left_out)}…); modules that are "
            f"missing for it are masked",
            SfxlabWarning,
            stacklevel=2,
        )
    return run


def raw_run(path: str) -> list[Any]:
    """The raw data of a corrected run, `raw/r0034` beside `proc/r0034`, which hold what motors and diagnostics say."""
    if is_address(path):
        above, category, name = f"/{path}".rstrip("/").rsplit("/", 2)
        if category != "proc" or f"{above[1:]}/raw/" not in (e.address for e in entries_in(f"{above[1:]}/")):
            return []
        return [open_run(f"{above[1:]}/raw/{name}/")]
    folder = Path(path)
    raw = folder.parent.parent / "raw" / folder.name
    return [open_run(str(raw))] if folder.parent.name == "proc" and raw.is_dir() else []


def _open_directory(path: str) -> tuple[Any, set[str]]:
    """The run and names of files that are left out."""
    from extra_data import RunDirectory

    names = {name for name in os.listdir(path) if name.endswith(".h5")}
    run = RunDirectory(path, parallelize=len(names) > _MANY_FILES)
    return run, names - {os.path.basename(file.filename) for file in run.files}


def _open_address(path: str) -> tuple[Any, set[str]]:
    from sfxlab.frames.euxfel_at_address import open_run_at

    addresses = {each.address for each in entries_in(path) if each.address.endswith(".h5")}
    run = open_run_at(sorted(addresses), path)
    return run, {os.path.basename(address) for address in addresses - {file.filename for file in run.files}}
