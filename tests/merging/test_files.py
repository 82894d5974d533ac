"""Merged data to and from MTZ files and reflection lists, as other programs see them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pytest
import reciprocalspaceship as rs

from sfxlab.crystal import UnitCell, point_group, possible_reflections
from sfxlab.errors import MergeError, OutputExistsError, StreamError
from sfxlab.interop.hkl import read_hkl
from sfxlab.merging import Intensities, Merged, Shell, merge, read_merged
from sfxlab.merging.deposition import statistics_text
from sfxlab.merging.free_set import flags_from, free_flags
from sfxlab.merging.table_one import RunFacts

MakeRun = Callable[..., Any]
DICTIONARY = Path("/usr/share/libcifpp/mmcif_pdbx.dic")


@pytest.fixture(scope="module")
def merged(synthetic_run: MakeRun) -> Merged:
    """Friedel mates merged."""
    return merge(synthetic_run(n_crystals=60), "4/mmm", polarisation=None, space_group="P 43 21 2")


@pytest.fixture(scope="module")
def anomalous(synthetic_run: MakeRun) -> Merged:
    """Friedel mates apart."""
    run = synthetic_run(n_crystals=100, n_observed=300, friedel_difference=0.1)
    return merge(run, "422", polarisation=None, space_group="P 43 21 2")


def assert_same_statistics(one: Merged, other: Merged, rel: float) -> None:
    # Shares below a threshold jump where rounding moves a pair across it.
    for name in Shell.__dataclass_fields__.keys() - {"d1sig", "d2sig"}:
        a, b = (getattr(m.statistics().overall, name) for m in (one, other))
        assert b == pytest.approx(a, rel=rel, nan_ok=True), name


@pytest.mark.parametrize("kind", ["merged", "anomalous"])
def test_mtz_file_gives_the_same_data_and_statistics(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    original: Merged = request.getfixturevalue(kind)
    original.to_mtz(tmp_path / "x.mtz")
    again = read_merged(tmp_path / "x.mtz")
    assert np.array_equal(again.hkl, original.hkl)
    assert (again.cell, again.space_group, again.point_group) == (original.cell, "P 43 21 2", original.point_group)
    for a, b in zip(original.sets, again.sets, strict=True):
        assert b.intensity == pytest.approx(a.intensity, rel=1e-6, nan_ok=True)
        assert b.sigma == pytest.approx(a.sigma, rel=1e-6, nan_ok=True)
        assert np.array_equal(b.n_observations, a.n_observations)
    assert_same_statistics(original, again, 1e-6)
    assert again.wavelength == pytest.approx(12398.4198 / 9500, abs=5e-5)
    assert any("scaled" in line for line in again.history["mtz"])


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("3_H", UnitCell(50, 50, 70, 90, 90, 120, "rhombohedral", "H", "c")),
        ("-3m_R", UnitCell(40, 40, 40, 70, 70, 70, "rhombohedral", "R")),
        ("312_H", UnitCell(50, 50, 70, 90, 90, 120, "hexagonal", "P", "c")),
        ("2_uab", UnitCell(50, 60, 40, 90, 100, 90, "monoclinic", "C", "b")),
        ("2/m", UnitCell(50, 60, 40, 90, 90, 100, "monoclinic", "P", "c")),
        ("mm2", UnitCell(50, 60, 40, lattice_type="orthorhombic", centring="I")),
        ("432", UnitCell(50, 50, 50, lattice_type="cubic", centring="F")),
        ("1", UnitCell(30, 40, 50, 80, 95, 100)),
    ],
)
def test_every_symmetry_survives_the_mtz_file(name: str, cell: UnitCell, tmp_path: Path) -> None:
    group = point_group(name)
    hkl = possible_reflections(cell, group, 0.15)
    rng = np.random.default_rng(1)
    hkl = hkl[rng.random(len(hkl)) < 0.8]
    n = len(hkl)
    sets = [Intensities(rng.normal(10, 5, n), rng.random(n), rng.integers(2, 9, n, dtype=np.int32)) for _ in range(3)]
    whole = (sets[0].intensity, sets[0].sigma, sets[0].n_observations)
    original = Merged(hkl, *whole, sets[1], sets[2], cell, group, group.space_group(cell.centring).xhm())
    original.to_mtz(tmp_path / "x.mtz")
    again = read_merged(tmp_path / "x.mtz")
    assert (again.point_group, again.space_group) == (group, original.space_group)
    assert np.array_equal(again.hkl, hkl)
    for a, b in zip(original.sets, again.sets, strict=True):
        assert b.intensity == pytest.approx(a.intensity, rel=1e-6)
        assert np.array_equal(b.n_observations, a.n_observations)


def test_gemmi_and_reciprocalspaceship_read_the_mtz_file(merged: Merged, tmp_path: Path) -> None:
    merged.to_mtz(tmp_path / "x.mtz")
    mtz = gemmi.read_mtz_file(str(tmp_path / "x.mtz"))
    assert mtz.spacegroup.hm == "P 43 21 2"
    assert "".join(column.type for column in mtz.columns) == "HHHJQIJQIJQIRI"
    intensity = dict(
        zip(map(tuple, mtz.make_miller_array().tolist()), mtz.column_with_label("IMEAN").array, strict=True)
    )
    assert [intensity[tuple(hkl)] for hkl in merged.hkl.tolist()] == pytest.approx(merged.intensity, rel=1e-6)
    asu = gemmi.ReciprocalAsu(mtz.spacegroup)
    assert all(asu.is_in(hkl) for hkl in mtz.make_miller_array().tolist())
    dataset = rs.read_mtz(str(tmp_path / "x.mtz"))
    assert dataset.merged
    rows = dataset.loc[[tuple(hkl) for hkl in merged.hkl.tolist()]]
    assert rows["IMEAN"].to_numpy(float) == pytest.approx(merged.intensity, rel=1e-6)
    assert rows["N"].to_numpy(int).tolist() == merged.n_observations.tolist()
    assert rows["ADEV"].to_numpy(float) == pytest.approx(merged.deviation, rel=1e-6)
    assert rows["IHALF2"].to_numpy(float) == pytest.approx(merged.half2.intensity, rel=1e-6, nan_ok=True)


def test_bijvoet_pairs_are_columns_that_others_know(anomalous: Merged, tmp_path: Path) -> None:
    anomalous.to_mtz(tmp_path / "x.mtz")
    dataset = rs.read_mtz(str(tmp_path / "x.mtz")).stack_anomalous()
    dataset = dataset[dataset["I"].notna()]
    in_group = point_group("422").asu(dataset.get_hkls())
    stacked = {tuple(hkl): i for hkl, i in zip(in_group.tolist(), dataset["I"].to_numpy(float), strict=True)}
    assert [stacked[tuple(hkl)] for hkl in anomalous.hkl.tolist()] == pytest.approx(anomalous.intensity, rel=1e-6)
    mtz = gemmi.read_mtz_file(str(tmp_path / "x.mtz"))
    n = [mtz.column_with_label(f"N({sign})").array for sign in "+-"]
    assert sum(n).sum() == anomalous.n_observations.sum()
    sums = [
        np.nan_to_num(mtz.column_with_label(f"I({sign})").array) * count for sign, count in zip("+-", n, strict=True)
    ]
    assert mtz.column_with_label("IMEAN").array * sum(n) == pytest.approx(sum(sums), rel=1e-4, abs=1e-2)


def test_amplitudes_are_those_of_french_and_wilson(anomalous: Merged, tmp_path: Path) -> None:
    anomalous.to_mtz(tmp_path / "x.mtz", with_amplitudes=True)
    mtz = gemmi.read_mtz_file(str(tmp_path / "x.mtz"))
    types = {column.label: column.type for column in mtz.columns}
    assert [types[label] for label in ("F", "SIGF", "F(+)", "SIGF(-)", "FreeR_flag")] == ["F", "Q", "G", "L", "I"]
    f, sigma, intensity, error = (mtz.column_with_label(name).array for name in ("F", "SIGF", "IMEAN", "SIGIMEAN"))
    assert (f > 0).all()
    assert (sigma > 0).all()
    # Where errors do not count, F is the root of the intensity.
    strong = intensity > 30 * error
    assert strong.sum() > 100
    assert f[strong] == pytest.approx(np.sqrt(intensity[strong]), rel=5e-3)
    assert sigma[strong] == pytest.approx((error / (2 * f))[strong], rel=0.02)
    read = read_merged(tmp_path / "x.mtz")
    assert np.array_equal(read.hkl, anomalous.hkl)


def test_free_reflections_are_the_same_in_all_data_of_a_symmetry(merged: Merged, anomalous: Merged) -> None:
    ours, theirs = (free_flags(m.hkl, m.point_group) for m in (merged, anomalous))
    flag_of = dict(zip(map(tuple, merged.hkl.tolist()), ours.tolist(), strict=True))
    in_laue = merged.point_group.asu(anomalous.hkl)
    for hkl, flag in zip(in_laue.tolist(), theirs.tolist(), strict=True):
        assert flag_of.get(tuple(hkl), flag) == flag
    shares = np.bincount(ours, minlength=20) / len(ours)
    assert shares == pytest.approx(0.05, abs=0.03)
    assert (free_flags(merged.hkl, merged.point_group, seed=1) != ours).mean() > 0.8


def test_free_flags_are_taken_over_and_filled_up(merged: Merged, tmp_path: Path) -> None:
    other = gemmi.Mtz(with_base=True)
    other.spacegroup = gemmi.SpaceGroup("P 43 21 2")
    other.set_cell_for_all(merged.cell.gemmi)
    other.add_dataset("old")
    other.add_column("R-free-flags", "I")
    half = merged.hkl[::2]
    known = np.random.default_rng(1).random(len(half)) < 0.2
    other.set_data(np.column_stack([half, known]).astype(np.float32))
    other.write_to_file(str(tmp_path / "old.mtz"))
    merged.to_mtz(tmp_path / "new.mtz", free_from=tmp_path / "old.mtz")
    mtz = gemmi.read_mtz_file(str(tmp_path / "new.mtz"))
    flags = mtz.column_with_label("FreeR_flag").array
    flag_of = dict(zip(map(tuple, mtz.make_miller_array().tolist()), flags.tolist(), strict=True))
    assert [flag_of[tuple(hkl)] for hkl in half.tolist()] == known.tolist()
    assert set(flags.tolist()) == {0.0, 1.0}
    assert np.mean([flag_of[tuple(hkl)] for hkl in merged.hkl[1::2].tolist()]) == pytest.approx(0.2, abs=0.06)
    merged.to_mtz(tmp_path / "plain.mtz")
    with pytest.raises(MergeError, match="another symmetry"):
        flags_from(tmp_path / "plain.mtz", merged.hkl, point_group("mmm"))


def test_the_mmcif_file_keeps_to_the_dictionary_of_the_protein_data_bank(anomalous: Merged, tmp_path: Path) -> None:
    if not DICTIONARY.exists():
        pytest.skip(f"{DICTIONARY} is not there (Debian's libcifpp-data)")
    said: list[str] = []
    dictionary = gemmi.cif.Ddl(said.append)
    dictionary.read_ddl(gemmi.cif.read(str(DICTIONARY)))
    # What it says of itself.
    said.clear()
    anomalous.to_mmcif(tmp_path / "x.cif", RunFacts(("run",), 100, 50, 40, 45, {"sfxlab": "1"}))
    document = gemmi.cif.read(str(tmp_path / "x.cif"))
    assert dictionary.validate_cif(document), said
    assert not said
    for item, name in (("Rmerge_I_all", "r_merge"), ("Rrim_I_all", "r_meas"), ("Rpim_I_all", "r_pim")):
        found = document.sole_block().find_value(f"_reflns.pdbx_{item}")
        assert float(found) == pytest.approx(getattr(anomalous.statistics().overall, name), abs=1e-4)
    document.sole_block().set_pair("_reflns.pdbx_R_split", "good")
    assert not dictionary.validate_cif(document)


def test_figures_that_the_dictionary_does_not_allow_are_unknown(merged: Merged) -> None:
    rng = np.random.default_rng(1)
    n = len(merged)
    # Nothing but noise: CC1/2 is negative in some shells, and Rsplit goes anywhere.
    halves = [Intensities(rng.standard_normal(n), np.ones(n), np.ones(n, np.int32)) for _ in "12"]
    noise = replace(merged, intensity=halves[0].intensity, half1=halves[0], half2=halves[1], deviation=np.ones(n))
    block = gemmi.cif.read_string(statistics_text(noise)).sole_block()
    shells = noise.statistics().shells
    assert min(shell.cc_half for shell in shells) < 0
    for item, name, highest in (("CC_half", "cc_half", 1), ("R_split", "rsplit", 10)):
        for shell, text in zip(shells, block.find_loop(f"_reflns_shell.pdbx_{item}"), strict=True):
            value = getattr(shell, name)
            assert text == (f"{value:.4f}" if 0 < value <= highest else "?")


def test_gemmi_reads_the_mmcif_file_with_the_same_numbers(anomalous: Merged, tmp_path: Path) -> None:
    facts = RunFacts(("run 1", "run 2"), 900, 300, 200, 210, {"sfxlab": "1", "other": "2.0"})
    anomalous.to_mmcif(tmp_path / "x.cif", facts)
    anomalous.to_mtz(tmp_path / "x.mtz")
    block = gemmi.as_refln_blocks(gemmi.cif.read(str(tmp_path / "x.cif")))[0]
    again, mtz = gemmi.CifToMtz().convert_block_to_mtz(block), gemmi.read_mtz_file(str(tmp_path / "x.mtz"))
    assert (again.spacegroup.hm, again.cell) == ("P 43 21 2", mtz.cell)
    again.sort()
    assert np.array_equal(again.make_miller_array(), mtz.make_miller_array())
    for theirs, ours in (("IMEAN", "IMEAN"), ("I(+)", "I(+)"), ("SIGI(-)", "SIGI(-)")):
        found, made = again.column_with_label(theirs).array, mtz.column_with_label(ours).array
        assert found == pytest.approx(made, rel=1e-5, nan_ok=True)
    values = {item: block.block.find_value(f"_pdbx_serial_crystallography_data_reduction.{item}") for item in (
        "frames_total", "crystal_hits", "frames_indexed", "frames_failed_index", "lattices_indexed",
    )}  # fmt: skip
    assert list(values.values()) == ["900", "300", "200", "100", "210"]
    overall = anomalous.statistics().overall
    assert float(block.block.find_value("_reflns.pdbx_R_split")) == pytest.approx(overall.rsplit, abs=1e-4)
    assert len(block.block.find_loop("_reflns_shell.pdbx_CC_half")) == 10
    assert list(block.block.find_loop("_software.name")) == ["sfxlab", "other", "sfxlab"]
    assert "d_res_high" in statistics_text(anomalous)


def test_table_one_is_the_same_as_text_and_csv(anomalous: Merged) -> None:
    table = anomalous.table_one(RunFacts(("run 1",), 900, 300, 200, 210, {}))
    overall = anomalous.statistics().overall
    rows = {item: (value, outer) for item, value, outer in csv.reader(table.to_csv().splitlines())}
    assert rows["Frames"] == ("900", "")
    assert rows["CC1/2"][0] == f"{overall.cc_half:.3f}"
    assert rows["Space group"] == ("P 43 21 2", "")
    assert rows["Rpim (%), means little for stills"][0] == f"{100 * overall.r_pim:.1f}"
    for item, (value, outer) in rows.items():
        if item != "item":
            assert f"{value} ({outer})" if outer else value in table.to_text()


def test_reflection_lists_give_the_same_data_to_two_decimals(merged: Merged, tmp_path: Path) -> None:
    merged.to_hkl(tmp_path / "x.hkl")
    again = read_merged(tmp_path / "x.hkl", cell=merged.cell)
    assert again.point_group == merged.point_group
    for a, b in zip(merged.sets, again.sets, strict=True):
        assert b.intensity == pytest.approx(a.intensity, abs=0.005001, nan_ok=True)
        assert np.array_equal(b.n_observations, a.n_observations)
    # A list does not say how observations scatter.
    assert_same_statistics(replace(merged, deviation=None), again, 2e-3)
    assert len(read_hkl(tmp_path / "x.hkl1")) == np.isfinite(merged.half1.intensity).sum()


def test_a_compressed_reflection_list_is_written_and_read(merged: Merged, tmp_path: Path) -> None:
    merged.to_hkl(tmp_path / "x.hkl.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.hkl.gz", "x.hkl1.gz", "x.hkl2.gz"]
    assert read_merged(tmp_path / "x.hkl.gz", cell=merged.cell).half2.n_observations.sum() > 0


def test_nothing_is_overwritten_without_being_asked_for(merged: Merged, tmp_path: Path) -> None:
    (tmp_path / "x.mtz").write_text("precious")
    (tmp_path / "y.hkl2").write_text("precious")
    with pytest.raises(OutputExistsError):
        merged.to_mtz(tmp_path / "x.mtz")
    with pytest.raises(OutputExistsError):
        merged.to_hkl(tmp_path / "y.hkl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.mtz", "y.hkl2"]
    merged.to_mtz(tmp_path / "x.mtz", overwrite=True)
    assert len(read_merged(tmp_path / "x.mtz")) == len(merged)


def test_amplitudes_of_another_program_are_squared(tmp_path: Path) -> None:
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 43 21 2")
    mtz.set_cell_for_all(gemmi.UnitCell(40, 40, 30, 90, 90, 90))
    mtz.add_dataset("other")
    for label, kind in (("FREE", "I"), ("FP", "F"), ("SIGFP", "Q")):
        mtz.add_column(label, kind)
    mtz.set_data(np.array([[1, 2, 3, 0, 10, 1], [2, 1, 4, 1, 5, 0.5]], dtype=np.float32))
    mtz.write_to_file(str(tmp_path / "other.mtz"))
    reference = read_merged(tmp_path / "other.mtz")
    assert reference.point_group.name == "4/mmm"
    assert reference.hkl.tolist() == [[2, 1, 3], [2, 1, 4]]
    assert reference.intensity.tolist() == [100, 25]
    assert reference.sigma.tolist() == [20, 5]


def test_files_that_hold_no_merged_data_are_explained(merged: Merged, tmp_path: Path) -> None:
    (tmp_path / "x.mtz").write_bytes(b"MTZ or not")
    (tmp_path / "x.txt").write_text("")
    merged.to_hkl(tmp_path / "x.hkl")
    with pytest.raises(MergeError, match="cannot be read"):
        read_merged(tmp_path / "x.mtz")
    with pytest.raises(MergeError, match="no such MTZ file"):
        read_merged(tmp_path / "absent.mtz")
    with pytest.raises(MergeError, match="cannot be read"):
        read_merged(tmp_path / "x.txt")
    with pytest.raises(MergeError, match="no unit cell"):
        read_merged(tmp_path / "x.hkl")
    with pytest.raises(StreamError):
        read_merged(tmp_path / "absent.hkl", cell=merged.cell)


def test_a_setting_without_a_space_group_is_written_as_a_reflection_list_only(tmp_path: Path) -> None:
    cell = UnitCell(30, 40, 40, lattice_type="tetragonal", unique_axis="a")
    group = point_group("4/mmm_uaa")
    hkl = np.array([[0, 2, 1], [1, 2, 1]], dtype=np.int32)
    arrays = (np.array([5.0, 6.0]), np.ones(2), np.full(2, 3, dtype=np.int32))
    odd = Merged(hkl, *arrays, Intensities.missing(2), Intensities.missing(2), cell, group, None)
    with pytest.raises(MergeError, match="needs a space group"):
        odd.to_mtz(tmp_path / "x.mtz")
    odd.to_hkl(tmp_path / "x.hkl")
    assert read_merged(tmp_path / "x.hkl", cell=cell).intensity.tolist() == [5.0, 6.0]
