"""The data set on disk: complete, reproducible, and true."""

from __future__ import annotations

import csv
import gzip
import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin  # noqa: F401 -- registers the compression filter
import numpy as np
import pytest

from sfxlab.crystal import UnitCell, read_cell
from sfxlab.errors import GeometryError, OutputExistsError, RecipeError, RunError
from sfxlab.geometry import read_geometry
from sfxlab.simulation import DETECTORS, Kind, Simulation, simulate
from sfxlab.simulation.instrument import load_preset

KINDS: Mapping[Kind, float] = {"single": 2, "weak": 1, "double": 1, "blank": 1, "blank_ice_rings": 1}


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate(tmp_path_factory.mktemp("simulated") / "set", 6, seed=11, kinds=KINDS)


@pytest.fixture(scope="module")
def truth(simulation: Simulation) -> dict[str, Any]:
    return json.loads((simulation.truth / "truth.json").read_text())


@pytest.fixture(scope="module")
def peaks(simulation: Simulation) -> dict[int, list[dict[str, float]]]:
    by_frame = defaultdict(list)
    with gzip.open(simulation.truth / "true_peaks.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            by_frame[int(row["frame"])].append({key: float(value) for key, value in row.items()})
    return by_frame


def panels_of(path: Path) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Top-level numbers and panels of a geometry file, read independently of the package."""
    top: dict[str, float] = {}
    panels: dict[str, dict[str, Any]] = defaultdict(dict)
    for line in path.read_text().splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        name, slash, key = key.rpartition("/")
        if slash and key in ("fs", "ss"):
            panels[name][key] = np.array([float(term[:-1]) for term in value.split()])
        elif slash:
            panels[name][key] = float(value)
        elif equals and key in ("clen", "res"):
            top[key] = float(value.split()[0])
    return top, panels


def test_the_frames_hold_what_the_truth_says_about_background_and_peaks(
    simulation: Simulation, truth: dict[str, Any], peaks: dict[int, list[dict[str, float]]]
) -> None:
    with h5py.File(simulation.truth / "full_mask.h5") as file:
        good = file["mask"][()] == 0
    with h5py.File(simulation.frames) as file:
        for frame in truth["frames"]:
            data = file["/entry_1/data_1/data"][frame["frame"]].astype(float)
            if frame["is_hit"]:
                assert len(peaks[frame["frame"]]) >= 10
                strong = max(peaks[frame["frame"]], key=lambda p: p["photons_5x5"] * (p["masked"] == 0))
                column, row = int(strong["fs"]), int(strong["ss"])
                counted = data[row - 2 : row + 3, column - 2 : column + 3].sum()
                expected = strong["photons_5x5"] + 25 * strong["background_per_px"]
                assert abs(counted - expected) < 6 * np.sqrt(expected)
            else:
                assert not peaks[frame["frame"]]
                expected = frame["mean_background_photons"]
                assert abs(data[good].mean() - expected) < 6 * np.sqrt(expected / good.sum())


def test_strong_peaks_lie_where_their_lattice_sends_them(
    simulation: Simulation, truth: dict[str, Any], peaks: dict[int, list[dict[str, float]]]
) -> None:
    top, panels = panels_of(simulation.geometry)
    names = list(panels)
    distances = []
    for frame in truth["frames"]:
        if frame["kind"] != "single":
            continue
        crystal = frame["crystals"][0]
        basis = np.array([crystal[key] for key in ("astar", "bstar", "cstar")]).T / 10
        k = frame["photon_energy_eV"] / 12398.4198
        for peak in sorted(peaks[frame["frame"]], key=lambda p: -p["photons_5x5"])[:40]:
            p = panels[names[int(peak["panel"])]]
            f, s = peak["fs"] - p["min_fs"], peak["ss"] - p["min_ss"]
            if not (4 < f < 252 and 4 < s < 508):
                continue
            corner = np.array([p["corner_x"], p["corner_y"], (top["clen"] + p["coffset"]) * top["res"]])
            ray = corner + f * p["fs"] + s * p["ss"]
            q = k * (ray / np.linalg.norm(ray) - [0, 0, 1])
            node = basis @ np.rint(np.linalg.inv(basis) @ q)
            # The wavenumbers that a node of this radius meets, METHODS.md section 5.1.
            scattered = node + [0, 0, k]
            cosine = scattered[2] / np.linalg.norm(scattered)
            radius = crystal["node_radius_per_A"] + 2e-4 * np.linalg.norm(node)
            spread = (1 - cosine) * 0.001 * k
            error = k - np.linalg.norm(scattered)
            scattered[2] -= error * (1 - cosine) * (0.001 * k) ** 2 / (radius**2 + spread**2)
            v = np.linalg.solve(np.array([corner, p["fs"], p["ss"]]).T, scattered)
            distances.append(np.hypot(v[1] / v[0] - f, v[2] / v[0] - s))
    assert len(distances) > 20
    assert np.median(distances) < 0.05
    assert np.percentile(distances, 90) < 0.1


def test_the_same_seed_gives_the_same_pixels_whatever_the_number_of_workers(
    simulation: Simulation, tmp_path: Path
) -> None:
    again = simulate(tmp_path / "again", 6, seed=11, kinds=KINDS, workers=1)
    with h5py.File(simulation.frames) as first, h5py.File(again.frames) as second:
        datasets: list[str] = []
        first.visititems(lambda name, item: datasets.append(name) if isinstance(item, h5py.Dataset) else None)
        assert len(datasets) == 9
        for name in datasets:
            assert np.array_equal(first[name][()], second[name][()])
    for name in ("truth.json", "true_peaks.csv.gz", "true.hkl.gz", "true.geom", "unmasked_hot_pixels.csv"):
        assert (simulation.truth / name).read_bytes() == (again.truth / name).read_bytes()


def test_another_seed_gives_other_crystals(simulation: Simulation, truth: dict[str, Any], tmp_path: Path) -> None:
    other = simulate(tmp_path / "other", 1, seed=12, kinds={"single": 1})
    crystal = json.loads((other.truth / "truth.json").read_text())["frames"][0]["crystals"][0]
    assert all(crystal["astar"] != c["astar"] for frame in truth["frames"] for c in frame["crystals"])


def test_every_kind_has_its_share_and_its_number_of_lattices(simulation: Simulation, truth: dict[str, Any]) -> None:
    assert dict(simulation.counts) == KINDS
    assert simulation.hits == 4
    lattices = {"single": 1, "weak": 1, "double": 2}
    for frame in truth["frames"]:
        assert frame["n_crystals"] == len(frame["crystals"]) == lattices.get(frame["kind"], 0)


def test_the_truth_has_the_keys_of_the_example_data(
    simulation: Simulation, truth: dict[str, Any], shared_data: Path
) -> None:
    example = json.loads((shared_data / "lyso" / "truth" / "truth.json").read_text())
    assert set(example) <= set(truth)
    assert set(example["frames"][0]) <= set(truth["frames"][0])
    crystals = [next(c for frame in t["frames"] for c in frame["crystals"]) for t in (example, truth)]
    assert set(crystals[0]) <= set(crystals[1])
    headers = []
    for folder in (shared_data / "lyso" / "truth", simulation.truth):
        with gzip.open(folder / "true_peaks.csv.gz", "rt") as file:
            headers.append(file.readline())
    assert headers[0] == headers[1]


def test_half_of_the_hot_pixels_are_in_no_mask_and_dead_pixels_read_nothing(simulation: Simulation) -> None:
    hot = np.loadtxt(simulation.truth / "unmasked_hot_pixels.csv", delimiter=",", skiprows=1)
    columns, rows = hot[:, 0].astype(int), hot[:, 1].astype(int)
    with h5py.File(simulation.frames) as file, h5py.File(simulation.truth / "full_mask.h5") as full:
        mask, data = file["/entry_1/data_1/mask"][()], file["/entry_1/data_1/data"][()]
        assert full["mask"].dtype == mask.dtype == np.uint16
        assert np.array_equal(np.argwhere(full["mask"][()] > mask), np.argwhere(full["mask"][()] != mask))
        assert (full["mask"][()] != mask).sum() == len(hot) >= 20
    assert np.all(data[:, rows, columns].mean(axis=0) > 50)
    always_zero = np.all(data == 0, axis=0)
    assert np.sum(always_zero & (mask > 0)) > 200
    assert not np.any(data[:, mask == 0].max(axis=0) == 20001)


def test_reflections_of_a_body_centred_cell_are_all_allowed(tmp_path: Path) -> None:
    (tmp_path / "i.cell").write_text(
        "CrystFEL unit cell file version 1.0\nlattice_type = tetragonal\ncentering = I\nunique_axis = c\n"
        "a = 60 A\nb = 60 A\nc = 90 A\nal = 90 deg\nbe = 90 deg\nga = 90 deg\n"
    )
    result = simulate(tmp_path / "set", 1, tmp_path / "i.cell", kinds={"single": 1})
    assert result.point_group == "4/m"
    assert read_cell(result.cell) == UnitCell(60, 60, 90, lattice_type="tetragonal", centring="I", unique_axis="c")
    header = json.loads((result.truth / "truth.json").read_text())
    assert (header["centering"], header["space_group"]) == ("I", "I 4")
    with gzip.open(result.truth / "true.hkl.gz", "rt") as file:
        lines = file.read().splitlines()
    assert lines[:2] == ["CrystFEL reflection list version 2.0", "Symmetry: 4/m"]
    assert lines[-1] == "End of reflections"
    hkl = np.array([line.split()[:3] for line in lines[3:-1]], dtype=int)
    assert len(hkl) > 1000
    assert np.all(hkl.sum(axis=1) % 2 == 0)


def test_a_long_axis_moves_the_detector_back(tmp_path: Path) -> None:
    cell = UnitCell(50, 60, 331, lattice_type="orthorhombic")
    result = simulate(tmp_path / "set", 1, cell, kinds={"blank": 1}, progress=None)
    length = read_geometry(result.geometry).camera_length.value
    # Neighbouring spots 8 pixels apart: λ/c · L = 8 · 75 µm.
    assert length == pytest.approx(8 * 75e-6 * 331 * 9500 / 12398.4198)


@pytest.mark.parametrize("name", DETECTORS)
def test_no_two_pixels_of_a_detector_share_a_place(name: str) -> None:
    detector = load_preset(name, 9500.0).detector
    exists = detector.panel_map >= 0
    x, y = (part[exists] / detector.panels[0].pixel_size for part in detector.xy)
    places = np.floor(x).astype(np.int64) * 100_000 + np.floor(y).astype(np.int64)
    # Turned panels put now and then two neighbours into one cell of a straight grid, never more.
    assert np.unique(places, return_counts=True)[1].max() <= 2
    assert abs(x.mean()) < 20
    assert abs(y.mean()) < 20


def test_a_geometry_file_serves_as_detector(simulation: Simulation, tmp_path: Path) -> None:
    result = simulate(tmp_path / "set", 1, detector=simulation.geometry, kinds={"blank": 1})
    (top, first), (top_again, second) = (panels_of(path) for path in (simulation.geometry, result.geometry))
    for name, panel in first.items():
        depths = top["clen"] + panel.pop("coffset"), top_again["clen"] + second[name].pop("coffset")
        assert depths[0] == pytest.approx(depths[1], abs=1e-9)
        for key, value in panel.items():
            assert second[name][key] == pytest.approx(value, abs=1e-6)


def test_misaligned_panels_differ_between_the_nominal_and_the_true_geometry(tmp_path: Path) -> None:
    result = simulate(tmp_path / "set", 1, kinds={"blank": 1}, misalignment=0.5)
    (_, nominal), (_, true) = (panels_of(path) for path in (result.geometry, result.truth / "true.geom"))
    shifts = [true[name][key] - nominal[name][key] for name in true for key in ("corner_x", "corner_y")]
    assert 0.2 < np.std(shifts) < 0.9


def test_progress_is_told_after_every_frame(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    simulate(tmp_path / "set", 3, kinds={"blank": 1}, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_nothing_is_overwritten_and_nothing_half_done_stays(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "mine.txt").write_text("keep me")
    with pytest.raises(OutputExistsError, match="already there"):
        simulate(folder, 1)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate(tmp_path / "half", 2, kinds={"blank": 1}, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        simulate(tmp_path / "file" / "set", 1, kinds={"blank": 1})


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(GeometryError, match="did you mean 'multipanel-1M'"):
        simulate(tmp_path / "set", 1, detector="multipanel-2M")
    with pytest.raises(RecipeError, match="'frames' is out of range"):
        simulate(tmp_path / "set", 0)
    with pytest.raises(RecipeError, match="'camera_length'"):
        simulate(tmp_path / "set", 1, camera_length=-0.1)
    with pytest.raises(RecipeError, match="unknown kinds"):
        simulate(tmp_path / "set", 1, kinds={"triple": 1.0})  # type: ignore[dict-item]
    assert not (tmp_path / "set").exists()
