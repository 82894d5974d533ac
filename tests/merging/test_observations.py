"""From the tables of runs to sorted observations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sfxlab.crystal import UnitCell, point_group
from sfxlab.errors import CellError, MergeError, RunError
from sfxlab.merging import observations
from sfxlab.merging.observations import gather
from sfxlab.merging.polarisation import parse_polarisation, polarisation_factors

MakeRun = Callable[..., Any]


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values))


def test_observations_are_sorted_by_crystal_and_point_to_their_reflection(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=12, n_observed=80, crystals_per_frame=2).shuffled(4)
    o = gather([run], point_group("4/mmm"))
    assert [(c.event, c.number) for c in o.crystals] == sorted((c.event, c.number) for c in o.crystals)
    assert len(o) == o.offsets[-1] == run.reflections.num_rows
    table = run.reflections.to_pydict()
    expected = {
        (f"//{table['frame'][i]}", table["crystal"][i], round(float(table["intensity"][i]), 3)): tuple(
            point_group("4/mmm").asu(np.array([[table[x][i] for x in "hkl"]]))[0].tolist()
        )
        for i in range(len(o))
    }
    crystal = o.crystal
    for j in range(len(o)):
        key = (o.crystals[crystal[j]].event, o.crystals[crystal[j]].number, round(float(o.intensity[j]), 3))
        assert expected[key] == tuple(o.hkl[o.reflection[j]].tolist())


def test_every_row_of_hkl_is_unique_and_was_observed(synthetic_run: MakeRun) -> None:
    o = gather([synthetic_run(n_crystals=5)], point_group("422"), d_min=4.0)
    assert np.array_equal(np.unique(o.hkl, axis=0), o.hkl)
    assert np.array_equal(np.unique(o.reflection), np.arange(len(o.hkl)))


def test_reflections_are_told_apart_the_same_way_however_far_apart_their_indices_are(
    synthetic_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, group = synthetic_run(n_crystals=4), point_group("4/mmm")
    marked = gather([run], group)
    monkeypatch.setattr(observations, "_LARGEST_BOX", 0)
    hashed = gather([run], group)
    assert np.array_equal(marked.hkl, hashed.hkl)
    assert np.array_equal(marked.reflection, hashed.reflection)
    assert np.array_equal(marked.intensity, hashed.intensity)


def test_cell_is_the_symmetrised_median_of_the_crystals(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=5)
    a, b = [40.0, 40.1, 40.2, 40.1, 55.0], [40.2, 40.3, 40.4, 40.3, 40.3]
    crystals = with_column(with_column(run.crystals, "a", a), "b", b)
    cell = gather([replace(run, crystals=crystals)], point_group("4/mmm")).cell
    assert cell.a == cell.b == pytest.approx(40.2)


def test_crystals_of_another_lattice_are_left_out_with_the_reason(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=5)
    crystals = with_column(run.crystals, "centring", ["P", "P", "I", "P", "P"])
    o = gather([replace(run, crystals=crystals)], point_group("4/mmm"))
    ((crystal, reason),) = o.excluded
    assert (crystal.event, reason) == ("//2", "its lattice is tetragonal I")
    assert o.offsets[3] == o.offsets[2]
    assert o.dropped["crystal of another lattice"] == 250
    with pytest.raises(MergeError, match="no crystal has the lattice"):
        gather([run], point_group("mmm"), cell=UnitCell(40, 40, 30, lattice_type="orthorhombic"))


def test_a_unique_axis_that_a_stream_does_not_say_is_no_other_lattice(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=5)
    unknown = replace(run, crystals=with_column(run.crystals, "unique_axis", ["", "c", "", "", "c"]))
    cell = UnitCell(40, 40, 30, lattice_type="tetragonal", unique_axis="c")
    assert not gather([unknown], point_group("4/mmm"), cell=cell).excluded
    assert not gather([unknown], point_group("4/mmm")).excluded


def test_reflections_that_the_centring_forbids_are_left_out(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=3)
    crystals = with_column(run.crystals, "centring", ["I"] * 3)
    o = gather([replace(run, crystals=crystals)], point_group("4/mmm"))
    assert not np.any(o.hkl.sum(axis=1) % 2)
    assert o.dropped["forbidden by the centring"] + len(o) == run.reflections.num_rows


def test_the_same_frame_in_two_runs_is_refused(synthetic_run: MakeRun) -> None:
    with pytest.raises(MergeError, match="two of the runs") as caught:
        gather([synthetic_run(seed=1), synthetic_run(seed=2)], point_group("4/mmm"))
    assert "data/run1.cxi //0" in str(caught.value)


def test_damaged_runs_are_named(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=3)
    with pytest.raises(RunError, match="belongs to no frame"):
        gather([replace(run, frames=run.frames.slice(1))], point_group("4/mmm"))
    with pytest.raises(RunError, match="belong to no crystal"):
        gather([replace(run, crystals=run.crystals.slice(1))], point_group("4/mmm"))
    with pytest.raises(MergeError, match="no crystals"):
        gather([replace(run, crystals=run.crystals.slice(0, 0))], point_group("4/mmm"))
    with pytest.raises(CellError):
        gather([run], point_group("23"))


def test_polarisation_is_taken_out_of_intensities_and_errors(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=3)
    horizontal = parse_polarisation("horiz")
    assert horizontal is not None
    plain, corrected = (gather([run], point_group("4/mmm"), polarisation=p) for p in (None, horizontal))
    hkl = np.stack([run.reflections.column(x).to_numpy() for x in "hkl"], axis=1)
    crystal = run.reflections.column("frame").to_numpy()
    basis = np.repeat(UnitCell(40, 40, 30).reciprocal_basis[None], 3, axis=0)
    factor = polarisation_factors(crystal, hkl, basis, np.full(3, 9500 / 12398.4198), horizontal)
    ratio = plain.intensity / corrected.intensity
    assert sorted(ratio) == pytest.approx(sorted(factor))
    assert plain.sigma / corrected.sigma == pytest.approx(ratio)


def test_polarisation_needs_a_photon_energy(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=3)
    frames = with_column(run.frames, "photon_energy", [9500.0, float("nan"), 9500.0])
    unknown = replace(run, frames=frames)
    gather([unknown], point_group("4/mmm"))
    with pytest.raises(MergeError, match="photon energy") as caught:
        gather([unknown], point_group("4/mmm"), polarisation=parse_polarisation("horiz"))
    assert "//1" in str(caught.value)


def test_crystals_of_another_cell_are_left_out_with_the_reason(synthetic_run: MakeRun) -> None:
    run = synthetic_run(n_crystals=5)
    crystals = with_column(run.crystals, "c", [30.0, 30.6, 32.0, 30.0, 29.7])
    o = gather([replace(run, crystals=crystals)], point_group("4/mmm"))
    ((crystal, reason),) = o.excluded
    assert (crystal.event, reason) == ("//2", "its cell is 40.00 40.00 32.00 90.00 90.00 90.00")
    assert o.dropped["crystal of another lattice"] == 250
    wide = gather([replace(run, crystals=crystals)], point_group("4/mmm"), length_tolerance=0.1)
    assert not wide.excluded


def test_runs_of_cells_within_the_tolerance_merge_and_others_do_not(synthetic_run: MakeRun) -> None:
    first = synthetic_run(n_crystals=6)
    near, far = (
        synthetic_run(
            n_crystals=5, path=f"{a}.cxi", cell=UnitCell(a, a, 30, lattice_type="tetragonal", unique_axis="c")
        )
        for a in (40.8, 60.0)
    )
    together = gather([first, near], point_group("4/mmm"))
    assert not together.excluded
    assert together.cell.a == 40
    mixed = gather([first, far], point_group("4/mmm"))
    assert {crystal.path for crystal, _ in mixed.excluded} == {"60.0.cxi"}
    with pytest.raises(MergeError, match="no crystal has this cell"):
        gather([far], point_group("4/mmm"), cell=UnitCell(40, 40, 30, lattice_type="tetragonal", unique_axis="c"))
