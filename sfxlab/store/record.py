"""What a run says about itself: recipe, inputs with checksums, versions, who and when."""

from __future__ import annotations

import getpass
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sfxlab.errors import InputError, RunError
from sfxlab.frames import FrameId
from sfxlab.indexing.methods import indexer_version
from sfxlab.peaks.hits import hit_function_checksum
from sfxlab.recipe import Recipe
from sfxlab.remote.addresses import is_address
from sfxlab.remote.files import RemoteFile

FORMAT = 2
"""Number of the layout of a run on disk."""
HIT_FUNCTION = "hit_function.py"
"""The file in a run that holds the user's function for hits."""

_ANEW = "processing."
"""How the keys of a recipe begin that may change when a run is resumed: they say what frames may cost."""

_WHOLE_FILE_LIMIT = 1 << 30
_MIB = 1 << 20
_DISTRIBUTIONS = (
    "sfxlab", "numpy", "scipy", "numba", "llvmlite", "gemmi", "h5py", "hdf5plugin", "dask", "distributed", "pyarrow",
    "pydantic",
)  # fmt: skip


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class InputFile(_Frozen):
    """A file that frames came from."""

    path: str
    hashed: Literal["whole file", "first and last MiB", "nothing"]
    """What `sha256` is of; files above 1 GiB by their ends, those on the network not at all."""
    size: int | None = None
    modified: datetime | None = None
    sha256: str | None = None
    etag: str | None = None
    """What the server says of a file on the network to tell its versions apart."""

    @property
    def content(self) -> tuple[object, ...]:
        """What tells whether it still is the same; the date only where there is nothing better: a copy has another."""
        when = self.modified if self.sha256 is None and self.etag is None else None
        return self.size, self.sha256, self.etag, when


class LinkedFiles(_Frozen):
    """Files that links and virtual datasets of the input files lead to."""

    n_files: int
    size: int
    """Of all of them together, bytes."""
    newest: str
    """The one that was changed last."""
    modified: datetime
    """When it was."""
    sha256: str
    """Of their paths, sizes and dates."""
    missing: tuple[str, ...] = ()
    """Others that could not be had when the run began; resuming it may find them."""


class RunRecord(_Frozen):
    """The content of `run.json`."""

    format: int = FORMAT
    status: Literal["running", "interrupted", "finished"] = "running"
    """`running` stays where a process was killed."""
    n_frames: int
    chunk_size: int
    """Chunk number k holds the frames from k * chunk_size on."""
    frames_sha256: str
    """Of the names of all frames in order."""
    geometry_sha256: str
    hit_function_sha256: str | None = None
    """Of the file of the function that the recipe names for hits; None where it names none."""
    geometry_path: str | None = None
    """Where the geometry file was, from which mask files may be named."""
    recipe: Recipe
    inputs: tuple[str, ...]
    """As the user named them, made absolute."""
    files: tuple[InputFile, ...]
    linked: LinkedFiles | None = None
    """Other files that are read for the frames; None where there are none."""
    command: tuple[str, ...]
    user: str
    host: str
    started: datetime
    resumed: tuple[datetime, ...] = ()
    finished: datetime | None = None
    versions: dict[str, str]
    indexed_by: dict[str, str] = {}
    """Outside program or plug-in that indexes, and its version; empty for our own indexer."""

    @property
    def n_chunks(self) -> int:
        """Chunks of the whole run."""
        return -(-self.n_frames // self.chunk_size)

    @property
    def input_size(self) -> int:
        """Size of all files that the frames are read from, as far as it is known, bytes."""
        return sum(file.size or 0 for file in self.files) + (self.linked.size if self.linked else 0)

    def frames_of(self, chunk: int) -> range:
        """The frames of a chunk."""
        return range(chunk * self.chunk_size, min((chunk + 1) * self.chunk_size, self.n_frames))

    def recipe_differences(self, other: RunRecord) -> dict[str, tuple[Any, Any]]:
        """Parameters that differ, such as `peaks.min_snr`, with the values here and there."""
        here, there = _flat(self.recipe.model_dump()), _flat(other.recipe.model_dump())
        return {
            key: (here.get(key), there.get(key))
            for key in sorted(here | there)
            if here.get(key) != there.get(key)
        }  # fmt: skip

    def differences(self, now: RunRecord) -> list[str]:
        """What would be computed otherwise now, one line each; empty where `now` may continue this run."""
        lines = [
            f"{key}: {before} in the run, {after} now"
            for key, (before, after) in self.recipe_differences(now).items()
            if not key.startswith(_ANEW)
        ]
        lines += _file_differences(self.files, now.files)
        if self.linked is not None and now.linked is not None and self.linked.sha256 != now.linked.sha256:
            lines.append(_linked_difference(self.linked, now.linked))
        if self.hit_function_sha256 != now.hit_function_sha256:
            lines.append(f"the file of hits.function has changed (see {HIT_FUNCTION} in the run)")
        if self.geometry_sha256 != now.geometry_sha256:
            lines.append("the geometry is another one (see geometry.geom in the run)")
        if self.frames_sha256 != now.frames_sha256:
            lines.append(f"the frames are others or in another order: {self.n_frames} in the run, {now.n_frames} now")
        if self.chunk_size != now.chunk_size:
            lines.append(f"chunk size: {self.chunk_size} in the run, {now.chunk_size} now")
        if self.versions.get("sfxlab") != now.versions.get("sfxlab"):
            lines.append(f"sfxlab: {self.versions.get('sfxlab')} in the run, {now.versions.get('sfxlab')} now")
        if self.indexed_by != now.indexed_by:
            lines.append(f"the indexer: {_named(self.indexed_by)} in the run, {_named(now.indexed_by)} now")
        return lines

    def to_json(self) -> str:
        """The text of `run.json`."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"


def describe(
    recipe: Recipe,
    names: Iterable[FrameId],
    *,
    n_frames: int,
    chunk_size: int,
    paths: Sequence[str],
    linked: Sequence[str] = (),
    inputs: Sequence[str] | None = None,
    geometry_text: str = "",
    geometry_path: str | None = None,
    command: Sequence[str] = (),
) -> RunRecord:
    """The record of a run that begins now.

    `names` are those of all frames, `paths` the files that they come from, which are read for their checksums, `linked`
    others that these lead to, which are not; `inputs` is what the user said (default: `paths`). Raises `InputError`
    where a file cannot be read.
    """
    with ThreadPoolExecutor(4) as pool:
        files = tuple(pool.map(_input_file, paths))
        stamps = dict(zip(sorted(linked), pool.map(_stamp, sorted(linked)), strict=True))
    return RunRecord(
        n_frames=n_frames,
        chunk_size=chunk_size,
        frames_sha256=names_sha256(names),
        geometry_sha256=hashlib.sha256(geometry_text.encode()).hexdigest(),
        hit_function_sha256=hit_function_checksum(recipe.hits.function),
        geometry_path=None if geometry_path is None else _absolute(geometry_path),
        recipe=recipe,
        inputs=tuple(_absolute(path) for path in (paths if inputs is None else inputs)),
        files=files,
        linked=_linked(stamps),
        command=tuple(command),
        user=user_name(),
        host=socket.gethostname(),
        started=datetime.now(UTC),
        indexed_by=indexer_version(recipe.indexing),
        versions={"python": platform.python_version(), **{name: _version(name) for name in _DISTRIBUTIONS}},
    )


def names_sha256(names: Iterable[FrameId]) -> str:
    """Checksum of the names of frames in order."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name.path}\0{name.event}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def read_record(path: Path) -> RunRecord:
    """Read `run.json`. Raises `RunError`."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        found = values.get("format")
    except OSError as error:
        raise RunError(
            "this is not a run", path=path.parent, found=f"no readable run.json ({error.strerror})",
            expected="a folder that `sfxlab process` wrote",
        ) from error  # fmt: skip
    except (ValueError, AttributeError) as error:
        raise RunError("the record of the run is damaged", path=path, found=str(error)) from error
    if found != FORMAT:
        raise RunError(
            "this run has another format", path=path, place="format", found=found, expected=FORMAT,
            remedy="use the version of sfxlab that wrote it",
        )  # fmt: skip
    try:
        return RunRecord.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RunError(
            "the record of the run is damaged", path=path, place=place, found=first.get("input"), expected=first["msg"]
        ) from None


def _input_file(path: str) -> InputFile:
    if is_address(path):
        version = RemoteFile(path).version
        return InputFile(
            path=path, hashed="nothing", size=version.size, modified=version.modified, etag=version.etag
        )  # fmt: skip
    try:
        status = os.stat(path)
        whole = status.st_size <= _WHOLE_FILE_LIMIT
        with open(path, "rb") as file:
            if whole:
                digest = hashlib.file_digest(file, "sha256")
            else:
                digest = hashlib.sha256(file.read(_MIB))
                file.seek(-_MIB, os.SEEK_END)
                digest.update(file.read(_MIB))
    except OSError as error:
        raise InputError("the file cannot be read", path=path, found=error.strerror) from error
    return InputFile(
        path=_absolute(path),
        hashed="whole file" if whole else "first and last MiB",
        size=status.st_size,
        modified=datetime.fromtimestamp(status.st_mtime, UTC),
        sha256=digest.hexdigest(),
    )


def _stamp(path: str) -> tuple[int, float, str]:
    """Size, time of the last change and version of a file, as far as they are known; size −1 where there is none."""
    try:
        if is_address(path):
            version = RemoteFile(path).version
            return version.size, version.modified.timestamp() if version.modified else 0.0, version.etag or ""
        status = os.stat(path)
    except (OSError, InputError):
        return -1, 0.0, ""
    return status.st_size, status.st_mtime, ""


def _linked(stamps: Mapping[str, tuple[int, float, str]]) -> LinkedFiles | None:
    if not stamps:
        return None
    newest = max(stamps, key=lambda path: stamps[path][1])
    there = {path: stamp for path, stamp in stamps.items() if stamp[0] >= 0}
    return LinkedFiles(
        n_files=len(there),
        size=sum(size for size, _, _ in there.values()),
        newest=newest,
        modified=datetime.fromtimestamp(stamps[newest][1], UTC),
        sha256=hashlib.sha256(repr(list(there.items())).encode("utf-8", "surrogateescape")).hexdigest(),
        missing=tuple(sorted(stamps.keys() - there.keys())),
    )


def _linked_difference(before: LinkedFiles, now: LinkedFiles) -> str:
    if now.modified > before.modified:
        return f"{now.newest}: the file has changed since the run began; frames are read from it through links"
    return (
        f"the files that frames are read from through links: {before.n_files} of {before.size} bytes in the run, "
        f"{now.n_files} of {now.size} bytes now, or their dates are others"
    )


def _file_differences(before: Sequence[InputFile], now: Sequence[InputFile]) -> list[str]:
    old, new = {file.path: file for file in before}, {file.path: file for file in now}
    lines = [f"{path}: in the run, not in the inputs now" for path in old.keys() - new.keys()]
    lines += [f"{path}: in the inputs now, not in the run" for path in new.keys() - old.keys()]
    for path in old.keys() & new.keys():
        if old[path].content != new[path].content:
            lines.append(f"{path}: the file has changed since the run began")
    return sorted(lines)


def _named(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "our own"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _absolute(path: str) -> str:
    # Not os.path.abspath, which would take the second slash from an event such as "run.cxi //17".
    return path if "://" in path else os.path.join(os.getcwd(), path)


def user_name() -> str:
    """Who runs this process."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())  # containers run under numbers that have no name


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
