"""Which files are read besides those that are named: what links and virtual datasets lead to."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from sfxlab.errors import InputError
from sfxlab.frames.hdf5_file import READ_ERRORS, OpenFiles
from sfxlab.frames.virtual_data import VirtualArray
from sfxlab.remote.addresses import is_address


def linked_files(files: OpenFiles, path: str, places: Iterable[str]) -> set[str]:
    """Files that datasets of a file really lie in, also such that do not exist; datasets that are missing left out.

    Of the files that one virtual dataset refers to, the first is opened: where it leads to no others, none does.
    """
    walk = _Walk(files, set(), set())
    for place in places:
        walk.leads_on(path, place)
    return walk.found - {path}


@dataclass(frozen=True)
class _Walk:
    files: OpenFiles
    seen: set[tuple[str, str]]
    found: set[str]

    def leads_on(self, path: str, place: str) -> bool:
        """Add the files of one dataset; whether they are others than its own."""
        if (path, place) in self.seen:
            return False
        self.seen.add((path, place))
        try:
            array = self.files[path].array(place)
        except (InputError, *READ_ERRORS):
            # The frames that need it say so.
            return False
        name = array.dataset.file.filename
        own: str = name if is_address(name) else os.path.abspath(name)
        if own != path and (is_address(own) or os.path.exists(own)):
            self.found.add(own)
        if not isinstance(array, VirtualArray):
            return own != path
        alike = False
        for file, source in array.sources():
            self.found.add(file)
            if file == path or not alike:
                alike = not self.leads_on(file, source) and file != path
        return True
