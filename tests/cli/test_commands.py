"""What each command does where nothing goes wrong."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gemmi
import h5py
import numpy as np
import pytest
from click.testing import Result

from sfxlab.crystal import read_cell
from sfxlab.interop.hkl import read_hkl
from sfxlab.interop.stream_reader import read_stream
from sfxlab.merging import read_merged
from sfxlab.store import Run

Sfxlab = Callable[..., Result]
COMMANDS = (
    "simulate",
    "show",
    "peaks",
    "recipe",
    "process",
    "rerun",
    "compare",
    "watch",
    "cells",
    "decoys",
    "mask",
    "geometry",
    "ambiguity",
    "merge",
    "stats",
    "forecast",
    "export",
    "import",
    "report",
    "compile",
    "doctor",
    "estimate",
    "lab",
    "session",
    "hub",
)


def frames_of(example: Path) -> tuple[object, ...]:
    return example / "frames.cxi", "-g", example / "frames.geom"


def test_the_help_lists_all_commands_with_whole_sentences(sfxlab: Sfxlab) -> None:
    text = sfxlab("--help").stdout
    listed = text[text.index("Commands:") :].splitlines()[1:]
    assert tuple(line.split()[0] for line in listed) == COMMANDS
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(sfxlab: Sfxlab, command: str) -> None:
    result = sfxlab(command, "--help")
    assert result.exit_code == 0
    lines = [line.strip() for line in result.stdout.splitlines()]
    assert lines.count("Example:") + lines.count("Examples:") == 1
    assert any(f"{line} ".startswith(f"sfxlab {command} ") for line in lines)
    assert "\b" not in result.stdout


def test_simulate_says_what_it_made(sfxlab: Sfxlab, told: Callable[..., Any], tmp_path: Path) -> None:
    values = told("simulate", tmp_path / "made", "--frames", 2)
    assert values["point_group"] == "4/mmm"
    assert sum(values["kinds"].values()) == 2
    assert all(Path(values[name]).exists() for name in ("frames", "geometry", "cell", "truth"))
    assert "point group  4/mmm\n" in sfxlab("simulate", tmp_path / "again", "--frames", 2).stdout


def test_show_says_what_is_in_a_file(sfxlab: Sfxlab, told: Callable[..., Any], example: Path) -> None:
    values = told("show", *frames_of(example))
    assert (values["files"], values["frames"], values["shape"]) == (1, 16, [1024, 1024])
    low, high = values["photon_energy"]
    text = sfxlab("show", *frames_of(example)).stdout
    assert f"photon energy  {low:.1f} to {high:.1f} eV\n" in text
    assert f"first frame    {example / 'frames.cxi'} //0\n" in text


def test_show_says_from_which_values_on_pixels_are_saturated(
    sfxlab: Sfxlab, told: Callable[..., Any], make_cxi: Callable[..., Path], two_panels: str, tmp_path: Path
) -> None:
    frames, geometry = make_cxi(), tmp_path / "a.geom"
    geometry.write_text(two_panels)
    assert "saturation" not in sfxlab("show", frames, "-g", geometry).stdout
    geometry.write_text(f"max_adu = 60000\n{two_panels}")
    assert "saturation     from 60000 ADU on\n" in sfxlab("show", frames, "-g", geometry).stdout
    limits = np.full((8, 6), 100.0)
    limits[0, 0] = 70000
    with h5py.File(tmp_path / "sat.h5", "w") as file:
        file["sat"] = limits
    lines = "max_adu = 60000\nsaturation_map = /sat\nsaturation_map_file = sat.h5\n"
    geometry.write_text(lines + two_panels)
    expected = f"saturation     from 100 to 60000 ADU on (/sat of {tmp_path / 'sat.h5'})\n"
    assert expected in sfxlab("show", frames, "-g", geometry).stdout
    geometry.write_text(f"{two_panels}left/saturation_map = /sat\nleft/saturation_map_file = sat.h5\n")
    assert "from 100 ADU on, of some pixels never (/sat of" in sfxlab("show", frames, "-g", geometry).stdout
    geometry.write_text(lines + two_panels)
    values = told("show", frames, "-g", geometry)
    assert (values["saturation"], values["saturation_map"]) == ([100, 60000], f"/sat of {tmp_path / 'sat.h5'}")


def test_show_says_what_is_in_a_run_and_draws_its_first_hit(
    told: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    run, picture = Run(example / "run"), tmp_path / "frame.png"
    values = told("show", example / "run", "--png", picture)
    assert (values["status"], values["n_frames"], values["indexed"]) == ("finished", 16, run.counts.indexed)
    status = run.frames["status"].to_pylist()
    assert values["frame"]["number"] == min(status.index("indexed"), 16 if "hit" not in status else status.index("hit"))
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["7", "//7", "{frames} //7"])
def test_show_finds_a_frame_by_its_number_or_name(told: Callable[..., Any], example: Path, name: str) -> None:
    frame = told("show", example / "run", "--frame", name.format(frames=example / "frames.cxi"))["frame"]
    row = Run(example / "run").frames.to_pylist()[7]
    assert (frame["number"], frame["event"], frame["peaks"]) == (7, "//7", row["n_peaks"])
    assert len(frame["crystals"]) == row["n_crystals"]


def test_a_frame_of_a_file_is_searched_as_it_is_in_a_run(told: Callable[..., Any], example: Path) -> None:
    frame = told("show", *frames_of(example), "--frame", "7")["frame"]
    assert frame["peaks"] == Run(example / "run").frames["n_peaks"][7].as_py()


def test_peaks_finds_the_hits_of_a_run_and_saves_their_peaks(
    sfxlab: Sfxlab, told: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    saved, run = tmp_path / "peaks.cxi", Run(example / "run")
    values = told("peaks", *frames_of(example), "--save", saved)
    counts = [result["peaks"] for result in values["results"]]
    assert values["hits"] == run.counts.hits
    assert counts == run.frames["n_peaks"].to_pylist()
    with h5py.File(saved) as file:
        assert file["/entry_1/result_1/nPeaks"][:].tolist() == counts
    text = sfxlab("peaks", *frames_of(example)).stdout
    assert f"hits    {values['hits']} ({values['hits'] / 16:.1%})\n" in text


def test_peaks_says_why_frames_fail(sfxlab: Sfxlab, make_cxi: Callable[..., Path], two_panels: str) -> None:
    path = make_cxi(chunks=(1, 8, 6), compression="gzip")
    with h5py.File(path, "r+") as file:
        file["/entry_1/data_1/data"].id.write_direct_chunk((2, 0, 0), b"this is no gzip")
    geometry = path.with_suffix(".geom")
    geometry.write_text(two_panels)
    result = sfxlab("peaks", path, "-g", geometry)
    assert result.exit_code == 0
    assert "//2  failed" in result.stdout
    assert "frame //2: the frame cannot be read" in result.stdout


def test_process_takes_recipe_list_and_cell(told: Callable[..., Any], example: Path, tmp_path: Path) -> None:
    listing, recipe = tmp_path / "some.lst", tmp_path / "strict.toml"
    listing.write_text("".join(f"{example / 'frames.cxi'} //{number}\n" for number in (3, 7, 8)))
    recipe.write_text("[hits]\nmin_peaks = 2000\n")
    run = tmp_path / "run"
    values = told(
        "process", listing, *frames_of(example)[1:], "-p", example / "frames.cell", "--recipe", recipe,
        "-o", run, "--workers", 0,
    )  # fmt: skip
    assert (values["frames"], values["hits"], values["status"]) == (3, 0, "finished")
    assert Run(run).recipe.cell == read_cell(example / "frames.cell")
    assert Run(run).frames["event"].to_pylist() == ["//3", "//7", "//8"]


def test_process_says_why_hits_are_not_indexed(sfxlab: Sfxlab, example: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "hits.toml"
    recipe.write_text("[indexing]\nenabled = false\n")
    text = sfxlab("process", *frames_of(example), "--recipe", recipe, "-o", tmp_path / "run", "--workers", 0).stdout
    hits = Run(example / "run").counts.hits
    assert "indexed 0 (0.0% of hits)" in " ".join(text.split())
    assert f"{hits:6}  indexing is switched off\n" in text


def test_a_run_is_made_anew_and_compared_with_what_it_was(
    sfxlab: Sfxlab, told: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    again, table = tmp_path / "again", tmp_path / "frames.csv"
    values = told("rerun", example / "run" / "run.json", "-o", again, "--workers", 0)
    assert (values["status"], values["indexed"]) == ("finished", Run(example / "run").counts.indexed)
    compared = told("compare", example / "run", again, "--table", table)
    assert compared["identical"]
    assert compared["counts"] == {"same": 16, "gained": 0, "lost": 0, "moved": 0}
    assert len(table.read_text().splitlines()) == 17
    assert "the same to the last bit" in sfxlab("compare", example / "run", again).stdout


def test_compare_lists_the_frames_that_changed_and_what_was_done_otherwise(
    sfxlab: Sfxlab, told: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    recipe, other = tmp_path / "hits.toml", tmp_path / "hits"
    recipe.write_text("[indexing]\nenabled = false\n[profiles]\nlearn = false\n")
    told("process", *frames_of(example), "-p", example / "frames.cell", "--recipe", recipe, "-o", other, "--workers", 0)
    rows = Run(example / "run").frames.to_pylist()
    indexed = [row["frame"] for row in rows if row["n_crystals"]]
    compared = told("compare", example / "run", other)
    assert [(row["frame"], row["state"]) for row in compared["changed"]] == [(frame, "lost") for frame in indexed]
    assert compared["recipe_differences"]["indexing.enabled"] == [True, False]
    text = sfxlab("compare", example / "run", other).stdout
    assert f"Lost: {len(indexed)}\n" in text
    assert "indexing is switched off" in text
    assert "crystals (other rows)" in text


def test_cells_writes_the_mean_cell(sfxlab: Sfxlab, told: Callable[..., Any], example: Path, tmp_path: Path) -> None:
    (group,) = told("cells", example / "run", "-o", tmp_path / "mean.cell")
    assert (group["lattice_type"], group["crystals"]) == ("tetragonal", Run(example / "run").counts.lattices)
    mean, true = read_cell(tmp_path / "mean.cell"), read_cell(example / "frames.cell")
    assert mean.parameters == pytest.approx(group["mean"], abs=1e-4)
    assert mean.parameters == pytest.approx(true.parameters, rel=2e-3)
    assert "alpha  90.000  90.000      0.000\n" in sfxlab("cells", example / "run").stdout


def test_merge_writes_mtz_or_reflection_lists(told: Callable[..., Any], example: Path, tmp_path: Path) -> None:
    for name in ("a.mtz", "a.hkl"):
        values = told("merge", example / "run", "-y", "4/mmm", "-o", tmp_path / name)
        assert values["history"]["runs"] == [str(example / "run")]
    mtz, hkl = gemmi.read_mtz_file(str(tmp_path / "a.mtz")), read_hkl(tmp_path / "a.hkl")
    assert mtz.nreflections == len(hkl) == values["shells"][-1]["n_unique"] > 100
    assert {path.name for path in tmp_path.iterdir()} == {"a.mtz", "a.hkl", "a.hkl1", "a.hkl2"}


def test_a_stream_merges_like_the_run_that_it_was_written_from(
    told: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    options = ("-y", "4/mmm", "--model", "none", "-o")
    of_run = told("merge", example / "run", *options, tmp_path / "run.mtz")
    of_stream = told("merge", example / "run.stream", *options, tmp_path / "stream.mtz")
    assert of_stream["history"]["runs"] == [str(example / "run.stream")]
    assert of_stream["shells"][-1]["n_unique"] == of_run["shells"][-1]["n_unique"]
    assert of_stream["shells"][-1]["cc_half"] == pytest.approx(of_run["shells"][-1]["cc_half"], abs=0.05)


def test_stats_compare_with_the_truth(sfxlab: Sfxlab, told: Callable[..., Any], example: Path) -> None:
    arguments = ("stats", example / "merged.mtz", "--reference", example / "truth" / "true.hkl.gz", "--shells", 3)
    values = told(*arguments, "--highres", 3)
    assert [row["shell"] for row in values["shells"]] == ["1", "2", "3", "overall"]
    assert values["comparison"][-1]["cc"] > 0.8
    text = sfxlab(*arguments).stdout
    assert "true.hkl.gz by shell" in text
    assert "nan" not in text
    assert "CC* ≥ 0.5" in text
    assert "L-test" in text
    assert not any(line != line.rstrip() for line in text.splitlines())


def test_ambiguity_names_the_operators_and_writes_what_it_found(
    told: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    lattices = Run(example / "run").counts.lattices
    values = told("ambiguity", example / "run", "-y", "4/m", "--stream", tmp_path / "resolved.stream")
    assert [found["operator"] for found in values["operators"]] == ["h,k,l", "k,h,-l"]
    assert len(values["crystals"]) == lattices
    resolved = [crystal for crystal in values["crystals"] if crystal["resolved"]]
    results = list(read_stream(tmp_path / "resolved.stream").results())
    assert sum(len(result.crystals) for result in results) == len(resolved)
    assert told("ambiguity", example / "run", "-y", "4/mmm")["operators"][0]["operator"] == "h,k,l"


def test_table_one_is_text_csv_or_mmcif(told: Callable[..., Any], example: Path, tmp_path: Path) -> None:
    counts = Run(example / "run").counts
    for suffix in ("txt", "csv", "cif"):
        told("stats", example / "merged.mtz", "--run", example / "run", "--table", tmp_path / f"table.{suffix}")
    lines = [line.rsplit(maxsplit=1) for line in (tmp_path / "table.txt").read_text().splitlines()]
    assert ["Indexed lattices", str(counts.lattices)] in lines
    assert any(label == "Merged lattices" and int(number) <= counts.lattices for label, number in lines)
    assert f"Hits,{counts.hits},\n" in (tmp_path / "table.csv").read_text()
    block = gemmi.cif.read(str(tmp_path / "table.cif")).sole_block()
    assert block.find_value("_pdbx_serial_crystallography_data_reduction.frames_indexed") == str(counts.indexed)


def test_observations_and_mmcif_are_exported(told: Callable[..., Any], example: Path, tmp_path: Path) -> None:
    mtz, cif = tmp_path / "unmerged.mtz", tmp_path / "merged.cif"
    values = told("export", example / "run", "--to", "unmerged-mtz", mtz, "--space-group", "P 43 21 2")
    read = gemmi.read_mtz_file(str(mtz))
    assert (values["crystals"], values["observations"]) == (len(read.batches), read.nreflections)
    values = told("export", example / "run", "--to", "dials", tmp_path / "run.expt")
    assert (values["crystals"], Path(values["reflections"]).name) == (len(read.batches), "run.refl")
    told("export", example / "merged.mtz", "--to", "mmcif", cif, "--run", example / "run")
    assert gemmi.as_refln_blocks(gemmi.cif.read(str(cif)))[0].spacegroup is not None


def test_export_goes_round(sfxlab: Sfxlab, told: Callable[..., Any], example: Path, tmp_path: Path) -> None:
    merged, hkl, mtz = read_merged(example / "merged.mtz"), tmp_path / "m.hkl", tmp_path / "m.mtz"
    assert told("export", example / "merged.mtz", "--to", "hkl", hkl) == {"file": str(hkl), "reflections": len(merged)}
    told("export", hkl, "-p", example / "frames.cell", "--to", "mtz", mtz)
    assert (read_merged(mtz).hkl == merged.hkl).all()
    result = sfxlab("export", example / "run", "--to", "stream", tmp_path / "again.stream")
    assert result.stdout == f"16 frames in {tmp_path / 'again.stream'}\n"
    events = [found.id.event for found in read_stream(tmp_path / "again.stream").results()]
    assert events == [f"//{number}" for number in range(16)]


def test_import_makes_a_run_that_can_be_shown(told: Callable[..., Any], example: Path, tmp_path: Path) -> None:
    counts = Run(example / "run").counts
    values = told("import", example / "run.stream", "-o", tmp_path / "imported")
    assert (values["frames"], values["crystals"]) == (16, counts.lattices)
    shown = told("show", tmp_path / "imported", "--png", tmp_path / "frame.png")
    assert shown["hits"] == counts.hits
    assert (tmp_path / "frame.png").exists()


def test_report_is_one_file_that_is_replaced_only_when_asked(
    sfxlab: Sfxlab, told: Callable[..., Any], example: Path, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    page.write_text("mine")
    arguments = ("report", example / "run", "--merged", example / "merged.mtz", "-o", page)
    assert sfxlab(*arguments).exit_code == 1
    assert page.read_text() == "mine"
    assert told(*arguments, "--overwrite") == {"file": str(page), "bytes": page.stat().st_size}
    assert page.read_text().startswith("<!")


def test_lab_becomes_jupyterlab(sfxlab: Sfxlab, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jupyterlab")
    started: list[tuple[str, list[str]]] = []
    monkeypatch.setattr("os.execv", lambda program, arguments: started.append((program, arguments)))
    sfxlab("lab", "--no-browser", "--port=9000")
    assert started == [(sys.executable, [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=9000"])]
