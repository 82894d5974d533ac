"""HDF5 files that end too early, have flipped bits, or hold something other than the geometry says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import h5py
import numpy as np

FILE = "frames.cxi"
Edit = Callable[[h5py.File], None]
_ALL_FRAMES = ("//0", "//1", "//2", "//3")


def damaged_hdf5(corpus: ModuleType, sound: ModuleType, random: Random) -> Iterator[Any]:
    """All of them; `corpus` is `damaged_inputs`, `sound` is `sound_inputs`."""
    yield from _wrong_content(corpus, sound)
    yield from _wrong_values(corpus, sound)
    yield from _damaged_chunks(corpus, sound, random)
    yield from _no_hdf5(corpus, random)
    for storage in ("contiguous", "bitshuffle", "checksums"):
        for part in sorted(random.uniform(0, 1) for _ in range(8)):
            damage = partial(_cut, sound, storage, part)
            yield corpus.DamagedInput(f"{storage} data cut after {part:.2%}", FILE, damage)
    for newest, storage, count in ((True, "checksums", 40), (False, "gzip", 40), (False, "bitshuffle", 20)):
        expected = "noticed or the same" if newest else "survived"
        kind = "with checksums" if newest else "without"
        for number in range(count):
            # Half of them in the first kilobytes, where HDF5 keeps what describes the data.
            part = (number // 2 / count) ** (1 if number % 2 else 3)
            damage = partial(_flip, sound, storage, newest, part, random.randrange(8))
            yield corpus.DamagedInput(f"{storage} data {kind}, bit flipped at {part:.3%} ({number})", FILE, damage,
                                      expected)  # fmt: skip


def _cut(sound: ModuleType, storage: str, part: float, path: Path) -> None:
    sound.write_frames(path, storage)
    content = path.read_bytes()
    path.write_bytes(content[: int(part * (len(content) - 1))])


def _flip(sound: ModuleType, storage: str, newest: bool, part: float, bit: int, path: Path) -> None:
    sound.write_frames(path, storage, newest=newest)
    content = bytearray(path.read_bytes())
    content[int(part * len(content))] ^= 1 << bit
    path.write_bytes(content)


def _no_hdf5(corpus: ModuleType, random: Random) -> Iterator[Any]:
    contents = {
        "is empty": b"",
        "is all zeros": bytes(5000),
        "is of random bytes": random.randbytes(5000),
        "is a text": b"photon_energy = 9000 eV\n" * 50,
        "is only the signature": b"\x89HDF\r\n\x1a\n",
        "is the signature and random bytes": b"\x89HDF\r\n\x1a\n" + random.randbytes(3000),
        "is a page of a web server": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    }
    for name, content in contents.items():
        yield corpus.DamagedInput(f"a file of frames that {name}", FILE, corpus.rewritten(content))


def _edited(sound: ModuleType, edit: Edit, storage: str, path: Path) -> None:
    sound.write_frames(path, storage)
    with h5py.File(path, "r+") as file:
        edit(file)


def _without(path: str) -> Edit:
    return lambda file: file.__delitem__(path)


def _with(path: str, **dataset: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        del file[path]
        file.create_dataset(path, **dataset)

    return edit


def _linked(path: str, link: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        del file[path]
        if link is None:
            file.create_group(path)
        else:
            file[path] = link

    return edit


def _wrong_content(corpus: ModuleType, sound: ModuleType) -> Iterator[Any]:
    """What is missing, renamed, of another type or another shape."""
    edits: dict[str, tuple[str, Edit]] = {}
    names = {sound.PIXELS: "pixels", sound.MASK: "mask", sound.ENERGY: "energy", sound.CAMERA_LENGTH: "camera length"}
    for path, name in names.items():
        edits |= {
            f"{name}: missing": (path, _without(path)),
            f"{name}: renamed": (path, lambda file, path=path: file.move(path, f"{path}_old")),
            f"{name}: a group": (path, _linked(path, None)),
            f"{name}: a soft link to nothing": (path, _linked(path, h5py.SoftLink("/nowhere"))),
            f"{name}: a soft link to itself": (path, _linked(path, h5py.SoftLink(path))),
            f"{name}: a link to a missing file": (path, _linked(path, h5py.ExternalLink("gone.h5", "/data"))),
            f"{name}: a link to the folder": (path, _linked(path, h5py.ExternalLink(".", "/data"))),
            f"{name}: a text": (path, _with(path, data="nine thousand")),
            f"{name}: texts": (path, _with(path, data=np.array([b"a", b"b", b"c", b"d"]))),
            f"{name}: complex numbers": (path, _with(path, data=np.ones((4, 32, 48), dtype=complex))),
            f"{name}: a table of records": (path, _with(path, data=np.zeros((4, 32, 48), dtype=[("x", "f4")]))),
            f"{name}: nothing at all": (path, _with(path, data=h5py.Empty("f4"))),
            f"{name}: no numbers": (path, _with(path, shape=(0,), dtype="f8")),
            f"{name}: too few numbers": (path, _with(path, data=np.ones(3))),
            f"{name}: five axes": (path, _with(path, data=np.ones((4, 1, 1, 2, 3)))),
        }
    edits |= {
        "pixels: columns and rows swapped": (sound.PIXELS, _with(sound.PIXELS, data=np.ones((4, 48, 32), np.uint16))),
        "pixels: frames on the last axis": (sound.PIXELS, _with(sound.PIXELS, data=np.ones((32, 48, 4), np.uint16))),
        "pixels: one frame without axis": (sound.PIXELS, _with(sound.PIXELS, data=np.ones((32, 48), np.uint16))),
        "pixels: no frames": (FILE, _with(sound.PIXELS, shape=(0, 32, 48), dtype="u2")),
        "pixels: too few rows": (sound.PIXELS, _with(sound.PIXELS, data=np.ones((4, 31, 48), np.uint16))),
        "mask: too few rows": (sound.MASK, _with(sound.MASK, data=np.zeros((31, 48), np.uint16))),
        "mask: columns and rows swapped": (sound.MASK, _with(sound.MASK, data=np.zeros((48, 32), np.uint16))),
        "mask: too few frames": (sound.MASK, _with(sound.MASK, data=np.zeros((3, 32, 48), np.uint16))),
        "energy: of two kinds": (sound.ENERGY, _with(sound.ENERGY, data=np.ones((4, 2)))),
        "energy: in another unit": (sound.ENERGY, lambda file: file[sound.ENERGY].attrs.update(units="keV")),
        "camera length: in another unit": (
            sound.CAMERA_LENGTH, lambda file: file[sound.CAMERA_LENGTH].attrs.update(units="m"),
        ),
    }  # fmt: skip
    for name, (path, edit) in edits.items():
        yield corpus.DamagedInput(name, FILE, partial(_edited, sound, edit, "contiguous"), words=(path,))
    yield corpus.DamagedInput("a filter that does not exist", FILE, partial(_unknown_filter, sound),
                              words=(sound.PIXELS, "filter"))  # fmt: skip


def _unknown_filter(sound: ModuleType, path: Path) -> None:
    sound.write_frames(path, "LZ4")
    content = path.read_bytes()
    known, unknown = ((number).to_bytes(2, "little") for number in (32004, 31999))
    assert content.count(known) == 1
    path.write_bytes(content.replace(known, unknown))


def _set(path: str, index: Any, value: Any) -> Edit:
    def edit(file: h5py.File) -> None:
        file[path][index] = value

    return edit


def _wrong_values(corpus: ModuleType, sound: ModuleType) -> Iterator[Any]:
    """Numbers that cannot be, in one frame or in all."""
    for path, values in (
        (sound.ENERGY, (np.nan, np.inf, 0.0, -9000.0)),
        (sound.CAMERA_LENGTH, (np.nan, np.inf, -np.inf)),
    ):
        for value in values:
            for frame in (1, 3):
                yield corpus.DamagedInput(
                    f"{path} = {value} in frame {frame}", FILE,
                    partial(_edited, sound, _set(path, frame, value), "gzip"), words=(f"//{frame}", path),
                    struck=(f"//{frame}",),
                )  # fmt: skip
            yield corpus.DamagedInput(
                f"{path} = {value} in all frames", FILE, partial(_edited, sound, _set(path, ..., value), "gzip"),
                words=("//0", path), struck=_ALL_FRAMES,
            )  # fmt: skip


def _damaged_chunks(corpus: ModuleType, sound: ModuleType, random: Random) -> Iterator[Any]:
    """Compressed pixels of one frame replaced or with a flipped bit; the other frames must not notice."""
    for storage in ("gzip", "LZ4", "bitshuffle", "Blosc", "checksums"):
        contents: dict[str, Callable[[bytes, int], bytes]] = {
            "of one byte": lambda chunk, seed: chunk[:1],
            "cut in half": lambda chunk, seed: chunk[: len(chunk) // 2],
            "of random bytes": lambda chunk, seed: Random(seed).randbytes(len(chunk)),
            "of the largest bytes": lambda chunk, seed: b"\xff" * len(chunk),
        }
        for name, content in contents.items():
            frame = random.randrange(4)
            edit = partial(_damage_chunk, sound, frame, partial(_apply, content, random.randrange(10**6)))
            yield corpus.DamagedInput(
                f"{storage} chunk of frame {frame} {name}", FILE, partial(_edited, sound, edit, storage),
                "noticed", words=(f"//{frame}",), struck=(f"//{frame}",),
            )  # fmt: skip
        for _ in range(5):
            frame, part, bit = random.randrange(4), random.random(), random.randrange(8)
            edit = partial(_damage_chunk, sound, frame, partial(_with_flipped, part, bit))
            yield corpus.DamagedInput(
                f"{storage} chunk of frame {frame} with bit {bit} flipped at {part:.2%}", FILE,
                partial(_edited, sound, edit, storage),
                "noticed" if storage == "checksums" else "contained", struck=(f"//{frame}",),
            )  # fmt: skip


def _apply(content: Callable[[bytes, int], bytes], seed: int, chunk: bytes) -> bytes:
    return content(chunk, seed)


def _with_flipped(part: float, bit: int, chunk: bytes) -> bytes:
    flipped = bytearray(chunk)
    flipped[int(part * len(chunk))] ^= 1 << bit
    return bytes(flipped)


def _damage_chunk(sound: ModuleType, frame: int, change: Callable[[bytes], bytes], file: h5py.File) -> None:
    chunks = file[sound.PIXELS].id
    skipped, chunk = chunks.read_direct_chunk((frame, 0, 0))
    chunks.write_direct_chunk((frame, 0, 0), change(chunk), skipped)
