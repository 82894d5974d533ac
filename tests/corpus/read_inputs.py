"""Reads inputs of the corpus in a process of its own, since HDF5 may crash or hang on a damaged file.

Standard input has a line of JSON for each input (name, kind, folder, files), standard output gets one for each result.
"""

from __future__ import annotations

import hashlib
import json
import resource
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sfxlab.crystal.cell_file import read_cell
from sfxlab.errors import FrameError, SfxlabError, SfxlabWarning
from sfxlab.frames import open_frames
from sfxlab.interop.stream_reader import read_stream
from sfxlab.recipe import Recipe

_MOST_MEMORY = 8 * 2**30


def digest(value: Any) -> str:
    """The same for equal values."""
    found = hashlib.sha256()
    _add(found, value)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    if isinstance(value, np.ndarray):
        found.update(f"{value.dtype}{value.shape}".encode())
        found.update(np.ascontiguousarray(value).tobytes())
    elif is_dataclass(value):
        for field in fields(value):
            _add(found, getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for part in value:
            _add(found, part)
    else:
        found.update(repr(value).encode())


def _frames(files: list[str]) -> Iterator[dict[str, str]]:
    inputs, geometry = files[:-1], files[-1]
    frames = open_frames(inputs, geometry)
    for position in range(len(frames)):
        name = frames.identity(position).event
        try:
            frame = frames[position]
        except FrameError as error:
            yield {"name": name, "error": str(error)}
            continue
        values = (frame.data, frame.bad, frame.photon_energy, frame.detector.panels, *frame.detector.xy)
        yield {"name": name, "digest": digest(values)}


def _stream(files: list[str]) -> Iterator[dict[str, str]]:
    stream = read_stream(files[0])
    yield {"name": "header", "digest": digest((stream.format, stream.cell, stream.detector))}
    for result in stream.results():
        yield {"name": str(result.id), "digest": digest(result)}


def _cell(files: list[str]) -> Iterator[dict[str, str]]:
    yield {"name": "cell", "digest": digest(read_cell(files[0]))}


def _recipe(files: list[str]) -> Iterator[dict[str, str]]:
    yield {"name": "recipe", "digest": digest(Recipe.read(files[0]).to_toml())}


_READERS: dict[str, Callable[[list[str]], Iterator[dict[str, str]]]] = {
    "frames": _frames,
    "stream": _stream,
    "cell": _cell,
    "recipe": _recipe,
}


def read_input(kind: str, files: list[str]) -> dict[str, Any]:
    """What comes of reading: `parts` (each with digest or error), `error`, `warnings`, and `traceback` of a bug."""
    outcome: dict[str, Any] = {"parts": [], "error": None, "traceback": None}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for part in _READERS[kind](files):
                outcome["parts"].append(part)
        except SfxlabError as error:
            outcome["error"] = str(error)
        except Exception:  # noqa: BLE001  whatever it is, it is a bug
            outcome["traceback"] = traceback.format_exc()
    outcome["warnings"] = [str(w.message) for w in caught if issubclass(w.category, SfxlabWarning)]
    strange = [f"{w.category.__name__}: {w.message}" for w in caught if not issubclass(w.category, SfxlabWarning)]
    if strange:
        outcome["traceback"] = "\n".join(filter(None, (outcome["traceback"], *strange)))
    return outcome


def main() -> None:
    """Read what standard input names."""
    resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY, _MOST_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        job = json.loads(line)
        files = [str(Path(job["folder"]) / name) for name in job["files"]]
        print(json.dumps(read_input(job["kind"], files) | {"name": job["name"]}), flush=True)


if __name__ == "__main__":
    main()
