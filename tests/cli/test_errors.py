"""What a user reads who has made a mistake: the file, the place in it, and what to do, and never a traceback."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np
import pytest

Refused = Callable[..., str]


def _may_do_everything() -> bool:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o500)
        return os.access(folder, os.W_OK)


needs_permissions = pytest.mark.skipif(_may_do_everything(), reason="root may do everything; run the tests as a user")


@pytest.fixture
def geometry(tmp_path: Path, two_panels: str) -> Callable[..., Path]:
    """`geometry({"clen": "clenn"})`: a file for the frames of `make_cxi`, with some words replaced."""

    def write(changes: dict[str, str] | None = None) -> Path:
        text = two_panels
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "detector.geom"
        path.write_text(text)
        return path

    return write


@pytest.fixture
def broken_run(example: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(example / "run", tmp_path / "run"))


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str, str], Path]:
    def write(name: str, text: str) -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "nothere.cxi", "-g", "{geom}"),
        ("show", "{cxi}", "-g", "nothere.geom"),
        ("process", "{cxi}", "-g", "{geom}", "-p", "nothere.cell", "-o", "out"),
        ("process", "{cxi}", "-g", "{geom}", "--recipe", "nothere.toml", "-o", "out"),
        ("cells", "nothere"),
        ("merge", "nothere", "-y", "4/mmm", "-o", "out.mtz"),
        ("stats", "nothere.mtz"),
        ("stats", "nothere.hkl", "-p", "{cell}"),
        ("export", "nothere", "--to", "stream", "out.stream"),
        ("import", "nothere.stream", "-o", "out"),
        ("report", "nothere", "-o", "out.html"),
        ("simulate", "out", "--cell", "nothere.cell"),
    ],
    ids=lambda arguments: f"{arguments[0]} {next(a for a in arguments if 'nothere' in a)}",
)
def test_a_file_that_does_not_exist_is_named(
    refused: Refused, example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    known = {"cxi": example / "frames.cxi", "geom": example / "frames.geom", "cell": example / "frames.cell"}
    assert "nothere" in refused(*(argument.format(**known) for argument in arguments))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["garbage", "folder"])
@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "bad.cxi", "-g", "{geom}"),
        ("show", "bad.lst", "-g", "{geom}"),
        ("show", "{cxi}", "-g", "bad.geom"),
        ("simulate", "out", "--detector", "bad.geom"),
        ("simulate", "out", "--cell", "bad.cell"),
        ("process", "{cxi}", "-g", "{geom}", "-p", "bad.cell", "-o", "out"),
        ("process", "{cxi}", "-g", "{geom}", "-p", "bad.pdb", "-o", "out"),
        ("process", "{cxi}", "-g", "{geom}", "-p", "bad.mtz", "-o", "out"),
        ("process", "{cxi}", "-g", "{geom}", "--recipe", "bad.toml", "-o", "out"),
        ("merge", "bad.stream", "-y", "4/mmm", "-o", "out.mtz"),
        ("import", "bad.stream", "-o", "out"),
        ("stats", "bad.mtz"),
        ("stats", "bad.hkl", "-p", "{cell}"),
        ("stats", "bad.hkl.gz", "-p", "{cell}"),
        ("stats", "{mtz}", "--reference", "bad.mtz"),
        ("export", "bad.mtz", "--to", "hkl", "out.hkl"),
        ("report", "{run}", "--merged", "bad.mtz", "-o", "out.html"),
    ],
    ids=lambda arguments: f"{arguments[0]} {next(a for a in arguments if 'bad' in a)}",
)
def test_garbage_and_folders_in_the_place_of_files_are_named(
    refused: Refused,
    example: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    content: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    bad = next(argument for argument in arguments if "bad" in argument)
    if content == "folder":
        Path(bad).mkdir()
    else:
        Path(bad).write_bytes(np.random.default_rng(5).bytes(3000))
    names = {"cxi": "frames.cxi", "geom": "frames.geom", "cell": "frames.cell", "mtz": "merged.mtz", "run": "run"}
    known = {key: example / name for key, name in names.items()}
    assert bad in refused(*(argument.format(**known) for argument in arguments))
    assert [path.name for path in tmp_path.iterdir()] == [bad]


def test_frames_without_geometry_ask_for_one(refused: Refused, example: Path) -> None:
    said = refused("show", example / "frames.cxi")
    assert f"{example / 'frames.cxi'}: " in said
    assert "give one with -g" in said


@pytest.mark.parametrize(("name", "remedy"), [("merged.mtz", "sfxlab stats"), ("run.stream", "sfxlab import")])
def test_show_says_which_command_is_for_other_files(refused: Refused, example: Path, name: str, remedy: str) -> None:
    assert f"look at it with {remedy}" in refused("show", example / name)


def test_a_frame_that_is_not_there_is_refused_with_the_range(refused: Refused, example: Path) -> None:
    assert "a number from 0 to 15" in refused("show", example / "run", "--frame", "16")


def test_an_hdf5_path_that_is_not_there_is_suggested(
    refused: Refused, make_cxi: Callable[..., Path], geometry: Callable[..., Path]
) -> None:
    said = refused("show", make_cxi(), "-g", geometry({"data_1/data": "data_1/daat"}))
    assert "frames.cxi, /entry_1/data_1/daat: " in said
    assert "did you mean '/entry_1/data_1/data'?" in said


def test_data_with_another_number_of_axes_are_refused(
    refused: Refused, make_cxi: Callable[..., Path], geometry: Callable[..., Path]
) -> None:
    said = refused("show", make_cxi(frames=np.ones((2, 4, 8, 6), np.uint16)), "-g", geometry())
    assert "frames.cxi, /entry_1/data_1/data: " in said
    assert "found:    " in said
    assert "dim" in said


def test_a_truncated_file_is_named(
    refused: Refused, make_cxi: Callable[..., Path], geometry: Callable[..., Path], tmp_path: Path
) -> None:
    path = make_cxi(frames=np.ones((40, 8, 6), np.uint16))
    path.write_bytes(path.read_bytes()[:-2000])
    said = refused("process", path, "-g", geometry(), "-o", tmp_path / "run")
    assert f"{path}: " in said
    assert "to do:" in said
    assert not (tmp_path / "run").exists()


def test_a_missing_compression_filter_is_named(
    refused: Refused, make_cxi: Callable[..., Path], geometry: Callable[..., Path]
) -> None:
    path = make_cxi()
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((1, 8, 6))
    settings.set_filter(32099, h5py.h5z.FLAG_OPTIONAL)
    with h5py.File(path, "r+") as file:
        del file["/entry_1/data_1/data"]
        space = h5py.h5s.create_simple((1, 8, 6))
        h5py.h5d.create(file.id, b"/entry_1/data_1/data", h5py.h5t.STD_U16LE, space, settings)
    said = refused("show", path, "-g", geometry())
    assert "frames.cxi, /entry_1/data_1/data: a compression filter is missing" in said
    assert "HDF5 filter 32099" in said


def test_a_typing_error_in_a_geometry_is_shown_with_its_line(
    refused: Refused, make_cxi: Callable[..., Path], geometry: Callable[..., Path], two_panels: str
) -> None:
    path = geometry({"left/corner_x": "left/cornr_x"})
    line = two_panels.splitlines().index("left/corner_x = -3.5") + 1
    said = refused("show", make_cxi(), "-g", path)
    assert f"{path}, line {line}: " in said
    assert "did you mean 'corner_x'?" in said


def test_a_cell_that_does_not_fit_its_lattice_is_refused(
    refused: Refused, example: Path, written: Callable[[str, str], Path], tmp_path: Path
) -> None:
    text = (example / "frames.cell").read_text().replace("b = 79.3000", "b = 89.3000")
    cell = written("wrong.cell", text)
    said = refused("process", example / "frames.cxi", "-g", example / "frames.geom", "-p", cell, "-o", tmp_path / "run")
    assert f"{cell}: the parameters do not fit a tetragonal lattice" in said
    assert not (tmp_path / "run").exists()


def test_an_empty_list_is_refused(refused: Refused, example: Path, written: Callable[[str, str], Path]) -> None:
    listing = written("empty.lst", "\n")
    assert f"{listing}: the list is empty" in refused("peaks", listing, "-g", example / "frames.geom")


@pytest.mark.parametrize(
    ("text", "place", "remedy"),
    [
        ("[peaks]\nmin_srn = 5\n", "peaks.min_srn: unknown parameter", "did you mean 'min_snr'?"),
        ("[pekas]\nmin_snr = 5\n", "pekas: unknown parameter", "did you mean 'peaks'?"),
        ("[peaks]\nmin_snr = -5\n", "peaks.min_snr: wrong value", "found:    -5"),
        ("[peaks]\nmin_pixels = 'two'\n", "peaks.min_pixels: wrong value", "found:    two"),
        ("[peaks\n", "this is not TOML", "line 1"),
    ],
)
def test_a_recipe_is_refused_with_the_key(
    refused: Refused, example: Path, written: Callable[[str, str], Path], text: str, place: str, remedy: str
) -> None:
    recipe = written("my.toml", text)
    said = refused("peaks", example / "frames.cxi", "-g", example / "frames.geom", "--recipe", recipe)
    assert str(recipe) in said
    assert place in said
    assert remedy in said


@pytest.mark.parametrize(
    ("symmetry", "problem", "expected"),
    [
        ("4/mm", "unknown point group '4/mm'", "did you mean"),
        ("6/mmm", "the unit cell does not have the symmetry of point group 6/mmm", "4/mmm"),
    ],
)
def test_a_point_group_has_to_exist_and_to_fit(
    refused: Refused, example: Path, tmp_path: Path, symmetry: str, problem: str, expected: str
) -> None:
    said = refused("merge", example / "run", "-y", symmetry, "-o", tmp_path / "out.mtz")
    assert problem in said
    assert expected in said
    assert list(tmp_path.iterdir()) == []


def test_merged_data_of_another_kind_are_refused_before_any_work(
    refused: Refused, example: Path, tmp_path: Path
) -> None:
    said = refused("merge", example / "run", "-y", "4/mmm", "-o", tmp_path / "out.cif")
    assert "out.cif: unknown kind of output" in said
    assert "expected: .mtz, .hkl or .hkl.gz" in said


def test_a_stream_that_is_cut_off_is_refused_with_the_line(
    refused: Refused, example: Path, written: Callable[[str, str], Path], tmp_path: Path
) -> None:
    lines = (example / "run.stream").read_text().splitlines(keepends=True)
    begin = lines.index("Reflections measured after indexing\n")
    stream = written("cut.stream", "".join(lines[: begin + 12]))
    said = refused("import", stream, "-o", tmp_path / "run")
    assert f"{stream}, line {begin + 12}: " in said
    assert not (tmp_path / "run").exists()


def test_a_number_in_a_stream_that_is_none_is_shown_with_its_line(
    refused: Refused, example: Path, written: Callable[[str, str], Path], tmp_path: Path
) -> None:
    lines = (example / "run.stream").read_text().splitlines(keepends=True)
    row = lines.index("Reflections measured after indexing\n") + 4
    stream = written("odd.stream", "".join([*lines[:row], lines[row].replace(".", "?"), *lines[row + 1 :]]))
    said = refused("merge", stream, "-y", "4/mmm", "-o", tmp_path / "out.mtz")
    assert f"{stream}, line {row + 1}: " in said


@pytest.mark.parametrize("command", [("cells",), ("show",), ("merge", "-y", "4/mmm", "-o", "out.mtz")])
def test_a_run_with_a_broken_record_is_refused(
    refused: Refused, broken_run: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    record = broken_run / "run.json"
    record.write_text(record.read_text()[:-100])
    assert f"{record}: the record of the run is damaged" in refused(*command, broken_run)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_a_run_without_one_of_its_parts_says_how_to_mend_it(
    refused: Refused, broken_run: Path, tmp_path: Path, damage: str
) -> None:
    part = broken_run / "reflections" / "part-000001.parquet"
    if damage == "cut":
        part.write_bytes(part.read_bytes()[:-50])
    else:
        part.unlink()
    said = refused("merge", broken_run, "-y", "4/mmm", "-o", tmp_path / "out.mtz")
    assert f"{part}: a part of the run is missing or damaged" in said
    assert f"remove {broken_run / 'frames' / part.name} and process again with --resume" in said


def test_a_run_is_resumed_only_as_it_was_begun(refused: Refused, example: Path) -> None:
    said = refused(
        "process", example / "frames.cxi", "-g", example / "frames.geom", "-o", example / "run",
        "--resume", "--workers", 0,
    )  # fmt: skip
    assert "this run was begun with something else" in said
    assert "indexing.cell.a: 79.3 in the run, None now" in said


def _writing_commands(example: Path, out: Path) -> dict[str, tuple[object, ...]]:
    frames = (example / "frames.cxi", "-g", example / "frames.geom")
    return {
        "show": ("show", *frames, "--png", out),
        "peaks": ("peaks", *frames, "--save", out),
        "cells": ("cells", example / "run", "-o", out),
        "merge": ("merge", example / "run", "-y", "4/mmm", "-o", out),
        "export": ("export", example / "run", "--to", "stream", out),
        "report": ("report", example / "run", "-o", out),
        "import": ("import", example / "run.stream", "-o", out),
    }


writers = pytest.mark.parametrize("command", ["show", "peaks", "cells", "merge", "export", "report", "import"])


@pytest.mark.parametrize("command", ["show", "peaks", "cells", "merge", "export", "report", "import", "process"])
def test_nothing_is_overwritten(refused: Refused, example: Path, tmp_path: Path, command: str) -> None:
    out = tmp_path / "out.mtz"
    out.write_text("mine")
    process = ("process", example / "frames.cxi", "-g", example / "frames.geom", "-o", out, "--workers", 0)
    said = refused(*(_writing_commands(example, out) | {"process": process})[command])
    assert f"{out}: the output is already there" in said
    assert "to do:" in said
    assert out.read_text() == "mine"


def test_simulate_writes_into_no_folder_that_has_something_in_it(refused: Refused, example: Path) -> None:
    assert f"{example}: the output is already there" in refused("simulate", example)


@writers
def test_a_folder_to_write_to_has_to_be_there(refused: Refused, example: Path, tmp_path: Path, command: str) -> None:
    said = refused(*_writing_commands(example, tmp_path / "no" / "out.mtz")[command])
    assert f"{tmp_path / 'no'}: there is no such folder to write to" in said
    assert f"mkdir -p {tmp_path / 'no'}" in said


@needs_permissions
@writers
def test_a_folder_to_write_to_has_to_be_writable(refused: Refused, example: Path, tmp_path: Path, command: str) -> None:
    tmp_path.chmod(0o500)
    try:
        assert f"{tmp_path}: this folder cannot be written to" in refused(
            *_writing_commands(example, tmp_path / "out.mtz")[command]
        )
    finally:
        tmp_path.chmod(0o700)


@needs_permissions
@pytest.mark.parametrize("name", ["frames.cxi", "frames.geom", "frames.cell"])
def test_a_file_that_may_not_be_read_is_named(refused: Refused, example: Path, tmp_path: Path, name: str) -> None:
    for other in ("frames.cxi", "frames.geom", "frames.cell"):
        shutil.copy(example / other, tmp_path)
    (tmp_path / name).chmod(0)
    said = refused(
        "process", tmp_path / "frames.cxi", "-g", tmp_path / "frames.geom", "-p", tmp_path / "frames.cell",
        "-o", tmp_path / "run",
    )  # fmt: skip
    assert str(tmp_path / name) in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("proces", "x"), "No such command 'proces'; did you mean 'process'?"),
        (("xyzzy",), "No such command 'xyzzy'."),
        (("process", "a.cxi", "-o", "run", "--worker", "2"), "Did you mean '--workers'?"),
        (("process", "a.cxi"), "Missing option '-o' / '--output'"),
        (("simulate", "out", "--frames", "0"), "0 is not in the range x>=1"),
        (("merge", "run"), "Missing option '-y' / '--symmetry'"),
        (("export", "run", "--to", "pdf", "out"), "'pdf' is not one of 'stream', "),
    ],
)
def test_a_command_line_that_makes_no_sense_is_a_usage_error(
    refused: Refused, arguments: tuple[str, ...], said: str
) -> None:
    assert said in refused(*arguments, exit_code=2)


def test_an_error_of_the_system_that_nobody_foresaw_is_a_sentence(
    refused: Refused, example: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "/scratch/x")

    monkeypatch.setattr("sfxlab.store.Run.__init__", full)
    said = refused("cells", example / "run")
    assert "/scratch/x: " in said
    assert "No space left on device" in said
