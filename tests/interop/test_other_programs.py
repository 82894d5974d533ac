"""Observations for other programs: unmerged MTZ files, and the files of DIALS."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import fields, replace
from pathlib import Path

import gemmi
import msgpack
import numpy as np
import pytest
import reciprocalspaceship as rs

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.errors import CellError, OutputExistsError, RunError
from sfxlab.frames import FrameId
from sfxlab.geometry import HC_EV_ANGSTROM, Detector
from sfxlab.integration import Reflections
from sfxlab.interop.dials_files import write_dials
from sfxlab.interop.unmerged_mtz import write_unmerged_mtz
from sfxlab.pipeline import FrameResult

CELL = UnitCell(79.0, 79.0, 38.0, lattice_type="tetragonal", unique_axis="c")
PYTHON = "/usr/bin/python3"


def has_dials() -> bool:
    return any(shutil.which(name) for name in ("dials.python", "dials.index")) and Path(PYTHON).exists()


def on_the_sphere(detector: Detector, seed: int, wavelength: float) -> tuple[Crystal, Reflections]:
    """A crystal, and reflections where its nodes would be seen on the detector."""
    rng = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    crystal = Crystal(CELL, rotation * np.sign(np.linalg.det(rotation)) @ CELL.reciprocal_basis, 0.002)
    n = 60
    panel = rng.integers(0, len(detector.panels), n)
    bounds = detector.arrays.bounds[panel]
    fs = rng.uniform(bounds[:, 2], bounds[:, 3])
    ss = rng.uniform(bounds[:, 0], bounds[:, 1])
    q = detector.q(panel, fs, ss, HC_EV_ANGSTROM / wavelength)
    hkl = np.rint(q @ crystal.real_basis.T).astype(np.int32)
    ones = np.ones(n, dtype=np.float32)
    reflections = replace(
        Reflections(*hkl.T, *(ones for _ in fields(Reflections)[3:])),
        intensity=rng.normal(50, 100, n).astype(np.float32), sigma=rng.uniform(3, 30, n).astype(np.float32),
        panel=panel.astype(np.int16), fs=fs.astype(np.float32), ss=ss.astype(np.float32),
        resolution=np.linalg.norm(q, axis=1).astype(np.float32), saturated=np.arange(n) % 10 == 0,
    )  # fmt: skip
    return crystal, reflections


@pytest.fixture
def results(detector: Detector) -> list[FrameResult]:
    """A frame with two crystals, a blank, and a frame with one at another photon energy."""
    frames = []
    for index, (count, energy) in enumerate(((2, 9500.0), (0, 9500.0), (1, 9510.0))):
        found = [on_the_sphere(detector, 10 * index + n, HC_EV_ANGSTROM / energy) for n in range(count)]
        frames.append(
            FrameResult(
                FrameId("/data/run 1.cxi", f"//{index}"), index, "indexed" if count else "blank",
                photon_energy=energy, camera_length=0.08,
                crystals=tuple(c for c, _ in found), reflections=tuple(r for _, r in found),
            )
        )  # fmt: skip
    return frames


def kept(results: list[FrameResult]) -> list[Reflections]:
    return [r[~r.saturated] for result in results for r in result.reflections]


def test_reciprocalspaceship_reads_the_observations_as_they_were_indexed(
    results: list[FrameResult], detector: Detector, tmp_path: Path
) -> None:
    path = tmp_path / "unmerged.mtz"
    assert write_unmerged_mtz(path, results, lambda length: detector, "P 43 21 2") == (3, 3 * 54)
    dataset = rs.read_mtz(str(path))
    assert not dataset.merged
    mtz = gemmi.read_mtz_file(str(path))
    asu = gemmi.ReciprocalAsu(mtz.spacegroup)
    assert all(asu.is_in(hkl) for hkl in mtz.make_miller_array().tolist())
    # It takes the indices back to where they were observed by M/ISYM.
    observed = dataset.reset_index()
    for batch, reflections in enumerate(kept(results), start=1):
        rows = observed[observed["BATCH"] == batch]
        found = {(*hkl, round(float(i), 3)) for hkl, i in zip(
            rows[["H", "K", "L"]].to_numpy(int).tolist(), rows["I"].to_numpy(float), strict=True)}  # fmt: skip
        made = {(int(h), int(k), int(m), round(float(i), 3)) for h, k, m, i in zip(
            reflections.h, reflections.k, reflections.l, reflections.intensity, strict=True)}  # fmt: skip
        assert found == made


def test_batches_have_the_cell_the_wavelength_and_the_frame(
    results: list[FrameResult], detector: Detector, tmp_path: Path
) -> None:
    write_unmerged_mtz(tmp_path / "x.mtz", results, lambda length: detector, "P 43 21 2")
    mtz = gemmi.read_mtz_file(str(tmp_path / "x.mtz"))
    assert [batch.number for batch in mtz.batches] == [1, 2, 3]
    assert [batch.wavelength for batch in mtz.batches] == pytest.approx([1.30509, 1.30509, 1.30372], abs=1e-5)
    assert mtz.batches[2].cell.parameters == pytest.approx(CELL.parameters, abs=1e-3)
    assert mtz.batches[2].title.strip().endswith("//2")
    assert mtz.cell.parameters == pytest.approx(CELL.parameters)
    x = mtz.column_with_label("XDET").array
    places = [detector.positions(r.panel, r.fs, r.ss)[:, 0] * 1000 for r in kept(results)]
    assert np.sort(x) == pytest.approx(np.sort(np.concatenate(places)), abs=1e-3)


def test_careless_finds_its_columns_and_a_cell_that_obeys_the_space_group(
    results: list[FrameResult], detector: Detector, tmp_path: Path
) -> None:
    # A cell that was refined without symmetry.
    skewed = CELL.with_parameters(np.array([79.2, 78.9, 38.0, 90.1, 89.95, 90.05]))
    results = [replace(r, crystals=tuple(replace(c, cell=skewed) for c in r.crystals)) for r in results]
    write_unmerged_mtz(tmp_path / "x.mtz", results, lambda length: detector, "P 43 21 2")
    dataset = rs.read_mtz(str(tmp_path / "x.mtz")).reset_index()
    first = {kind: next(key for key, dtype in dataset.dtypes.items() if dtype == kind) for kind in "BJQ"}
    # `careless mono` takes the first columns of these types for image, intensity and error.
    assert first == {"B": "BATCH", "J": "I", "Q": "SIGI"}
    assert dataset["SIGI"].min() > 0
    assert dataset.cell.is_compatible_with_spacegroup(dataset.spacegroup)
    assert dataset.cell.parameters == pytest.approx((79.05, 79.05, 38.0, 90, 90, 90), abs=1e-3)
    dataset.compute_dHKL(inplace=True)
    # What its scales may depend on: `careless mono "dHKL,XDET,YDET,EWALD_OFFSET,…"`.
    metadata = dataset[["dHKL", "XDET", "YDET", "EWALD_OFFSET", "PARTIALITY", "LAMBDA"]].to_numpy("float32")
    assert np.isfinite(metadata).all()
    assert metadata[:, :3].std(axis=0).min() > 0
    with pytest.raises(CellError, match="symmetry of space group"):
        write_unmerged_mtz(tmp_path / "y.mtz", results, lambda length: detector, "P 2 3")


def test_what_cannot_be_written_is_said(results: list[FrameResult], detector: Detector, tmp_path: Path) -> None:
    with pytest.raises(CellError, match="unknown space group"):
        write_unmerged_mtz(tmp_path / "x.mtz", results, lambda length: detector, "P 9")
    with pytest.raises(RunError, match="crystals"):
        write_unmerged_mtz(tmp_path / "x.mtz", results[1:2], lambda length: detector, "P 1")
    with pytest.raises(RunError, match="no crystals"):
        write_dials(tmp_path / "x", results[1:2], lambda length: detector)
    (tmp_path / "x.refl").write_text("precious")
    with pytest.raises(OutputExistsError):
        write_dials(tmp_path / "x", results, lambda length: detector)
    assert [path.name for path in tmp_path.iterdir()] == ["x.refl"]


def test_the_table_of_reflections_has_the_layout_of_dials(
    results: list[FrameResult], detector: Detector, tmp_path: Path
) -> None:
    expt, refl, n = write_dials(tmp_path / "x.expt", results, lambda length: detector)
    assert (expt.name, refl.name, n) == ("x.expt", "x.refl", 3)
    name, version, table = msgpack.unpackb(refl.read_bytes(), strict_map_key=False)
    assert (name, version, table["nrows"]) == ("dials::af::reflection_table", 1, 162)
    kind, (count, data) = table["data"]["miller_index"]
    assert (kind, count, len(data)) == ("cctbx::miller::index<>", 162, 162 * 12)
    experiments = json.loads(expt.read_text())
    assert [e["identifier"] for e in experiments["experiment"]] == list(table["identifiers"].values())
    assert (len(experiments["beam"]), len(experiments["detector"])) == (2, 1)


_ASK = """
import json, sys
from dials.array_family import flex
from dxtbx.model.experiment_list import ExperimentList
experiments = ExperimentList.from_file(sys.argv[1], check_format=False)
table = flex.reflection_table.from_file(sys.argv[2])
table.assert_experiment_identifiers_are_consistent(experiments)
answer = []
for number, experiment in enumerate(experiments):
    rows = table.select(table["id"] == number)
    s0 = experiment.beam.get_s0()
    A = experiment.crystal.get_A()
    from scitbx import matrix
    q = [tuple(matrix.sqr(A) * matrix.col(h)) for h in rows["miller_index"]]
    seen = []
    for panel, (x, y, _), s1 in zip(rows["panel"], rows["xyzcal.px"], rows["s1"]):
        ray = matrix.col(experiment.detector[panel].get_pixel_lab_coord((x, y)))
        ray = ray.normalize() / experiment.beam.get_wavelength()
        seen.append([(ray - matrix.col(s1)).length(), *(ray - matrix.col(s0))])
    answer.append({
        "cell": experiment.crystal.get_unit_cell().parameters(), "wavelength": experiment.beam.get_wavelength(),
        "q": q, "seen": seen, "intensity": list(rows["intensity.sum.value"]), "s0": s0,
        "integrated": rows.get_flags(rows.flags.integrated_sum).count(True),
    })
print(json.dumps(answer))
"""


@pytest.mark.skipif(not has_dials(), reason="DIALS is not installed (Debian: python3-dials)")
def test_dials_sees_the_same_crystals_where_the_same_spots_are(
    results: list[FrameResult], detector: Detector, tmp_path: Path
) -> None:
    expt, refl, _ = write_dials(tmp_path / "x", results, lambda length: detector)
    (tmp_path / "ask.py").write_text(_ASK)
    command = [PYTHON, str(tmp_path / "ask.py"), str(expt), str(refl)]
    answers = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    crystals = [(result, c) for result in results for c in result.crystals]
    for answer, (result, crystal), reflections in zip(answers, crystals, kept(results), strict=True):
        assert answer["cell"] == pytest.approx(CELL.parameters)
        assert answer["wavelength"] == pytest.approx(HC_EV_ANGSTROM / result.photon_energy)
        assert answer["s0"][2] < 0
        assert answer["intensity"] == pytest.approx(reflections.intensity)
        assert answer["integrated"] == len(reflections)
        flip = np.diag([-1.0, 1.0, -1.0])
        hkl = np.stack([reflections.h, reflections.k, reflections.l], axis=1)
        assert np.array(answer["q"]) == pytest.approx(crystal.q(hkl) @ flip, abs=1e-9)
        seen = np.array(answer["seen"])
        assert seen[:, 0] == pytest.approx(0, abs=1e-9)
        q = detector.q(reflections.panel, reflections.fs, reflections.ss, result.photon_energy)
        assert seen[:, 1:] == pytest.approx(q @ flip, abs=1e-6)
