"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
from pathlib import Path

import h5py
import pytest

from sfxlab.errors import GeometryError, RunError
from sfxlab.whole_files import written_aside, written_whole


def test_a_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with written_whole(path) as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"


def test_an_error_while_writing_leaves_what_was_there_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with contextlib.suppress(ZeroDivisionError), written_whole(path) as file:
        file.write(b"half")
        raise ZeroDivisionError
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nowhere/file: the file cannot be written"):  # noqa: SIM117
        with written_whole(tmp_path / "nowhere" / "file"):
            pass


def test_the_error_is_of_the_kind_and_in_the_words_of_whoever_writes(tmp_path: Path) -> None:
    (tmp_path / "folder" / "file").mkdir(parents=True)
    with pytest.raises(GeometryError, match="folder: the map cannot be written"):  # noqa: SIM117
        with written_whole(tmp_path / "folder", "the map cannot be written", GeometryError) as file:
            file.write(b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_libraries_that_open_files_themselves_write_aside_too(tmp_path: Path) -> None:
    path = tmp_path / "file.h5"
    path.write_bytes(b"old")
    with written_aside(path) as aside, h5py.File(aside, "x") as file:
        file["number"] = 1
        assert path.read_bytes() == b"old"
    with h5py.File(path) as file:
        assert file["number"][()] == 1
    with contextlib.suppress(ZeroDivisionError), written_aside(path) as aside, h5py.File(aside, "x"):
        raise ZeroDivisionError
    assert h5py.is_hdf5(path)
    assert list(tmp_path.iterdir()) == [path]
