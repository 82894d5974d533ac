"""Geometries, cells, lists and masks at addresses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from sfxlab.cli import main
from sfxlab.crystal import UnitCell, read_cell, write_cell
from sfxlab.errors import CellError, GeometryError, InputError, UnreachableError
from sfxlab.frames import open_frames
from sfxlab.geometry import read_geometry
from sfxlab.remote.files import content_at
from sfxlab.store import Run


@pytest.fixture
def experiment(tmp_path: Path, make_cxi: Callable[..., Path], two_panels: str) -> Path:
    """A folder with frames, a list of them, a geometry that names a mask file, and a cell."""
    folder = make_cxi("exp1/frames.cxi").parent
    mask = np.zeros((8, 6), np.uint16)
    mask[2, 4] = 1
    with h5py.File(folder / "mask.h5", "w") as file:
        file["mask"] = mask
    masks = "mask1_file = mask.h5\nmask1_data = /mask\nmask1_badbits = 1\n"
    (folder / "a.geom").write_text(two_panels.replace("mask0_data", f"{masks}mask0_data"))
    write_cell(UnitCell(78, 79, 38, lattice_type="orthorhombic", centring="P"), folder / "a.cell")
    (folder / "some.lst").write_text("\ufeffframes.cxi //2\nframes.cxi //0\n", encoding="utf-8")
    return folder


def test_a_command_takes_geometry_cell_list_and_mask_from_addresses(
    publish: Any, experiment: Path, tmp_path: Path
) -> None:
    at, out = publish(experiment), tmp_path / "out"
    command = [
        "process",
        f"{at}/some.lst",
        "-g",
        f"{at}/a.geom",
        "-p",
        f"{at}/a.cell",
        "-o",
        str(out),
        "--workers",
        "0",
    ]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    run = Run(out)
    assert run.record.inputs == (f"{at}/some.lst",)
    assert {file.path for file in run.record.files} == {f"{at}/frames.cxi", f"{at}/mask.h5"}
    assert run.record.geometry_path == f"{at}/a.geom"
    assert run.geometry_text == (experiment / "a.geom").read_text()
    assert run.record.recipe.cell == read_cell(experiment / "a.cell")
    frames = run.open_frames()
    assert [frames.identity(i).event for i in range(2)] == ["//2", "//0"]
    assert np.argwhere(frames[1].bad).tolist() == [[2, 4]]
    shown = CliRunner().invoke(main, ["show", f"{at}/frames.cxi", "-g", f"{at}/a.geom", "--json"])
    assert json.loads(shown.output)["geometry"] == f"{at}/a.geom"


def test_files_in_python_are_the_same_from_an_address(publish: Any, experiment: Path) -> None:
    at = publish(experiment)
    assert read_geometry(f"{at}/a.geom").panels == read_geometry(experiment / "a.geom").panels
    assert read_cell(f"{at}/a.cell") == read_cell(experiment / "a.cell")


@pytest.mark.parametrize("publish", ["http"], indirect=True)
def test_cells_of_pdb_and_mtz_files_are_read_from_addresses(publish: Any, tmp_path: Path) -> None:
    import gemmi

    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 43 21 2")
    mtz.set_cell_for_all(gemmi.UnitCell(79, 79, 38, 90, 90, 90))
    mtz.set_data(np.array([[1, 2, 3]], dtype=np.float32))
    mtz.write_to_file(str(tmp_path / "a.mtz"))
    (tmp_path / "a.pdb").write_text("CRYST1   79.000   79.000   38.000  90.00  90.00  90.00 P 43 21 2     8\n")
    for name in ("a.mtz", "a.pdb"):
        assert read_cell(f"{publish(tmp_path)}/{name}") == read_cell(tmp_path / name)
        assert read_cell(tmp_path / name).parameters == (79, 79, 38, 90, 90, 90)


def test_what_is_wrong_with_a_small_file_is_named_with_its_address(server: Any) -> None:
    at = f"{server.address}/run%201"
    for read in (read_geometry, read_cell):
        with pytest.raises(UnreachableError, match=rf"{at}/none: there is no such object"):
            read(f"{at}/none")
    with pytest.raises(CellError, match=rf"{at}/notes\.md, line 1: this is neither a cell file"):
        read_cell(f"{at}/notes.md")
    with pytest.raises(GeometryError, match=rf"{at}/a\.cxi: this is not a geometry file"):
        read_geometry(f"{at}/a.cxi")
    with pytest.raises(InputError, match="the address contains a password") as caught:
        read_geometry("https://anna:secret@host/a.geom")
    assert "secret" not in str(caught.value)


def test_a_mask_that_is_not_beside_the_geometry_is_named(publish: Any, experiment: Path) -> None:
    (experiment / "mask.h5").unlink()
    at = publish(experiment)
    with pytest.raises(InputError, match=rf"{at}/mask\.h5: there is no such object"):
        open_frames(experiment / "frames.cxi", f"{at}/a.geom")


def test_small_files_need_no_server_that_knows_ranges_but_large_ones_are_not_fetched(
    server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sfxlab.remote import files

    server.has_ranges = False
    assert content_at(f"{server.address}/run%201/notes.md") == b"no frames"
    monkeypatch.setattr(files, "_LARGEST_SMALL_FILE", 8)
    with pytest.raises(InputError, match=r"notes\.md: this is too long[\s\S]*9 bytes"):
        content_at(f"{server.address}/run%201/notes.md")
