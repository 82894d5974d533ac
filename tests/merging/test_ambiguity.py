"""The indexing ambiguity: operators against gemmi, kernels against plain numpy, crystals against what was made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import gemmi
import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from sfxlab.crystal import UnitCell, point_group, point_group_of, resolution_of
from sfxlab.errors import MergeError
from sfxlab.merging import merge, read_merged
from sfxlab.merging.ambiguity import INDICES, Ambiguity, reindexed, resolve, resolve_ambiguity
from sfxlab.merging.ambiguity_embedding import embed
from sfxlab.merging.ambiguity_fit import assign_together
from sfxlab.merging.ambiguity_kernels import (
    FREEDOM,
    LEAST_LEVEL,
    PRIOR_WEIGHT,
    compare_operators,
    correlate,
    fit_levels,
    score_crystals,
    sum_reference,
)
from sfxlab.merging.ambiguity_levels import levels_of
from sfxlab.merging.observations import Observations, gather
from sfxlab.merging.reindexing import ambiguity_operators
from sfxlab.simulation.structure_factors import find_space_group, model_intensities

HEXAGONAL = UnitCell(40, 40, 50, 90, 90, 120, "hexagonal", "P", "c")


@dataclass(frozen=True)
class MadeRun:
    """Tables of a run, the way in which each crystal was indexed, and true intensities."""

    frames: pa.Table
    crystals: pa.Table
    reflections: pa.Table
    operator: NDArray[np.int64]
    hkl: NDArray[np.int32]
    truth: NDArray[np.float64]

    def right(self, found: Ambiguity, observations: Observations, *, together: bool = True) -> NDArray[np.bool_]:
        """Which crystals are right; `together` lets all of them be changed alike."""
        expected = self.operator[observations.facts.frame]
        changes = found.operators.common_changes if together else found.operators.common_changes[:1]
        return max((change[found.operator] == expected for change in changes), key=lambda right: right.sum())


@cache
def make_run(
    space_group: str = "P 63",
    n: int = 240,
    n_observed: int = 90,
    noise: float = 0.1,
    twins: int = 0,
    random: bool = False,
) -> MadeRun:
    """Stills of a random-atom model: each crystal a random part of all reflections, partial, and with its own scale."""
    rng = np.random.default_rng(7)
    model = model_intensities(HEXAGONAL, find_space_group(space_group, HEXAGONAL), 2.5, 20.0, np.random.default_rng(3))
    half = (np.array(model.dense.shape) - 1) // 2
    every = (np.argwhere(model.dense > 0) - half).astype(np.int32)
    operators = ambiguity_operators(HEXAGONAL, point_group(model.point_group))
    operator = rng.integers(0, len(operators), n)
    s2 = resolution_of(HEXAGONAL, every) ** 2 / 4
    rows = []
    for i in range(n):
        chosen = rng.choice(len(every), n_observed, replace=False)
        full = model.of(every[chosen]).astype(np.float64)
        if i < twins:
            full = 0.5 * (full + model.of(operators.reindexed(every[chosen], 1)))
        if random:
            full = rng.exponential(1000, n_observed)
        f = np.exp(0.5 * rng.standard_normal() - 5 * rng.standard_normal() * s2[chosen])
        value = f * rng.uniform(0.1, 1, n_observed) * full + 1000 * noise * rng.standard_normal(n_observed)
        back = np.rint(np.linalg.inv(operators.matrices[operator[i]])).astype(np.int32)
        rows.append(np.column_stack([np.full(n_observed, i), every[chosen] @ back.T, value]))
    table = np.concatenate(rows)
    number = np.arange(n)
    columns: dict[str, Any] = {"frame": number, "crystal": np.zeros(n, dtype=np.int64)}
    columns |= {
        k: np.full(n, v) for k, v in zip(("a", "b", "c", "alpha", "beta", "gamma"), HEXAGONAL.parameters, strict=True)
    }
    columns |= {"lattice_type": ["hexagonal"] * n, "centring": ["P"] * n, "unique_axis": ["c"] * n}
    basis = HEXAGONAL.reciprocal_basis
    columns |= {f"{a}star_{x}": np.full(n, basis[j, i]) for i, a in enumerate("abc") for j, x in enumerate("xyz")}
    return MadeRun(
        frames=pa.table({
            "frame": number, "path": ["data/run.cxi"] * n, "event": [f"//{i}" for i in number],
            "photon_energy": np.full(n, 9500.0),
        }),
        crystals=pa.table(columns),
        reflections=pa.table({
            "frame": table[:, 0].astype(np.int64), "crystal": np.zeros(len(table), dtype=np.int16),
            **{name: table[:, i].astype(np.int32) for i, name in enumerate("hkl", start=1)},
            "intensity": table[:, 4].astype(np.float32),
            "sigma": np.full(len(table), max(1000 * noise, 1.0), dtype=np.float32),
            "saturated": np.zeros(len(table), dtype=bool),
        }),
        operator=operator, hkl=model.hkl, truth=model.intensity,
    )  # fmt: skip


def observe(run: MadeRun, group: str, **options: Any) -> Observations:
    return gather([run], point_group(group), extra=INDICES, **options)


@pytest.mark.parametrize(
    ("space_group", "parameters", "lattice", "n"),
    [
        ("P 63", (90, 90, 120, 90, 90, 120), ("hexagonal", "P", "c"), 2),
        ("P 31", (90, 90, 120, 90, 90, 120), ("hexagonal", "P", "c"), 4),
        ("P 3 2 1", (90, 90, 120, 90, 90, 120), ("hexagonal", "P", "c"), 2),
        ("R 3:H", (90, 90, 120, 90, 90, 120), ("rhombohedral", "H", None), 2),
        ("R 3:R", (70, 70, 70, 80, 80, 80), ("rhombohedral", "R", None), 2),
        ("P 43", (80, 80, 40, 90, 90, 90), ("tetragonal", "P", "c"), 2),
        ("P 4", (80, 80, 80.5, 90, 90, 90), ("tetragonal", "P", "c"), 6),
        ("I 2 3", (80, 80, 80, 90, 90, 90), ("cubic", "I", None), 2),
        ("P 43 21 2", (80, 80, 40, 90, 90, 90), ("tetragonal", "P", "c"), 1),
        ("P 21 21 21", (80, 81, 40, 90, 90, 90), ("orthorhombic", "P", None), 2),
        ("C 1 2 1", (80, 81, 40, 90, 90.2, 90), ("monoclinic", "C", "b"), 4),
        ("P 1", (50, 60, 70, 80, 85, 95), ("triclinic", "P", None), 1),
    ],
)
def test_operators_are_the_twin_laws_that_gemmi_finds(
    space_group: str, parameters: tuple[float, ...], lattice: tuple[Any, ...], n: int
) -> None:
    cell = UnitCell(*parameters, *lattice)
    group = point_group_of(space_group, friedel=False)
    operators = ambiguity_operators(cell, group)
    laws = gemmi.find_twin_laws(cell.gemmi, gemmi.SpaceGroup(space_group), 2.0, False)
    assert len(operators) == n == len(laws) + 1
    # Not one that gemmi knows is missing, and none is there twice.
    every = gemmi.find_twin_laws(cell.gemmi, gemmi.SpaceGroup(space_group), 2.0, True)
    matrices = [np.array(law.rot, dtype=np.int32).T // gemmi.Op.DEN for law in every]
    cosets = [{(m @ matrix).tobytes() for m in group.laue_group.operations} for matrix in operators.matrices]
    assert all(sum(matrix.astype(np.int32).tobytes() in coset for coset in cosets) == 1 for matrix in matrices)
    assert all(any(matrix.tobytes() in coset for matrix in matrices) for coset in cosets[1:])
    assert np.array_equal(operators.matrices[0], np.eye(3))
    assert np.all(np.rint(np.linalg.det(operators.matrices)) == 1)


def test_operators_are_the_well_known_ones() -> None:
    assert ambiguity_operators(HEXAGONAL, point_group("6/m")).names == ("h,k,l", "k,h,-l")
    assert set(ambiguity_operators(HEXAGONAL, point_group("3_H")).names) == {"h,k,l", "k,h,-l", "-h,-k,l", "-k,-h,-l"}


def test_pseudo_symmetry_counts_as_far_as_the_obliquity_goes() -> None:
    cell = UnitCell(80, 81, 40, lattice_type="orthorhombic")
    operators = ambiguity_operators(cell, point_group("mmm"), 2.0)
    assert operators.misfit[1] == pytest.approx(1 / 80, rel=0.02)
    assert not ambiguity_operators(cell, point_group("mmm"), 0.5).is_ambiguous
    assert ambiguity_operators(HEXAGONAL, point_group("6/m"), 0.01).misfit[1] == 0


class State:
    """Random arrays as the kernels take them: 7 crystals, 30 measured hkl, 12 reflections, 3 operators."""

    def __init__(self) -> None:
        rng = np.random.default_rng(2)
        self.offsets = np.array([0, 30, 30, 75, 120, 160, 210, 260])
        n = 260
        self.index = rng.integers(0, 30, n).astype(np.int32)
        self.rows = rng.integers(0, 12, (30, 3)).astype(np.int32)
        self.level, self.sigma = rng.exponential(1, n) - 0.2, rng.uniform(0.1, 1, n)
        self.active = np.array([True, True, True, False, True, True, True])
        self.probability = rng.dirichlet(np.ones(3), 7)
        self.scatter = 0.4
        self.crystal = np.repeat(np.arange(7), np.diff(self.offsets))
        self.row = self.rows[self.index]

    @property
    def arguments(self) -> tuple[Any, ...]:
        return (
            self.offsets, self.index, self.rows, self.level, self.sigma, self.active, self.probability, self.scatter,
        )  # fmt: skip

    def plain_sums(self, crystals: NDArray[np.bool_]) -> NDArray[np.float64]:
        weight = self.probability[self.crystal] / (self.scatter + self.sigma**2)[:, None]
        weight[~crystals[self.crystal]] = 0
        sums = np.zeros((12, 2))
        np.add.at(sums[:, 0], self.row, weight)
        np.add.at(sums[:, 1], self.row, weight * self.level[:, None])
        return sums

    def plain_terms(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Log-likelihood, m and v of each observation with each operator, given all other crystals, (n, 3)."""
        m, v = np.empty((2, *self.row.shape))
        for i in range(7):
            mine = self.crystal == i
            sums = self.plain_sums(self.active & (np.arange(7) != i))[self.row[mine]]
            known = self.scatter * sums[..., 0]
            m[mine] = np.maximum((PRIOR_WEIGHT + self.scatter * sums[..., 1]) / (PRIOR_WEIGHT + known), LEAST_LEVEL)
            v[mine] = self.scatter * m[mine] ** 2 * (1 + 1 / (PRIOR_WEIGHT + known))
        return self.plain_likelihood(m, v), m, v

    def plain_likelihood(self, m: NDArray[np.float64], v: NDArray[np.float64]) -> NDArray[np.float64]:
        shape = (-1,) + (1,) * (m.ndim - 1)
        variance = v + self.sigma.reshape(shape) ** 2
        squares = (self.level.reshape(shape) - m) ** 2 / variance
        return -0.5 * np.log(variance) - 0.5 * (FREEDOM + 1) * np.log1p(squares / FREEDOM)

    def per_crystal(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        out = np.zeros((7, *values.shape[1:]))
        np.add.at(out, self.crystal, values)
        return out


def test_reference_sums_are_those_of_plain_numpy() -> None:
    state, sums = State(), np.zeros((12, 2))
    sum_reference(*state.arguments, sums)
    assert sums == pytest.approx(state.plain_sums(state.active))


def test_scores_are_those_of_plain_numpy_with_each_crystal_left_out() -> None:
    state = State()
    scores, misfit = np.ones((7, 3)), np.zeros(2)
    score_crystals(*state.arguments, state.plain_sums(state.active), True, scores, misfit)
    terms, m, v = state.plain_terms()
    assert scores == pytest.approx(np.where(state.active[:, None], state.per_crystal(terms), 0))
    t = (state.level[:, None] - m) ** 2 / (v + state.sigma[:, None] ** 2)
    strong = (state.sigma[:, None] ** 2 < v) & state.active[state.crystal][:, None]
    p = np.where(strong, state.probability[state.crystal], 0)
    assert misfit == pytest.approx([np.sum(p * (FREEDOM + 1) * t / (FREEDOM + t)), np.sum(p)])


def test_certainty_is_that_of_plain_numpy() -> None:
    state = State()
    best, second = np.array([0, 1, 2, 0, 1, 2, 0]), np.array([1, 2, 0, 2, 0, 1, 2])
    squares, twin, correlation = np.ones(7), np.ones(7), np.ones((7, 3))
    sums = state.plain_sums(state.active)
    compare_operators(*state.arguments, sums, True, best, second, squares, twin, correlation)
    terms, m, v = state.plain_terms()
    n = np.arange(len(terms))
    one, other = best[state.crystal], second[state.crystal]
    mean = 0.5 * (m[n, one] + m[n, other])
    spread = 0.5 * (v[n, one] / m[n, one] ** 2 + v[n, other] / m[n, other] ** 2)
    both = state.plain_likelihood(mean, spread * mean**2)
    for i in np.flatnonzero(state.active & (np.diff(state.offsets) > 0)):
        mine = state.crystal == i
        assert squares[i] == pytest.approx(np.var((terms[n, one] - terms[n, other])[mine]) * mine.sum())
        assert twin[i] == pytest.approx((both - terms[n, one])[mine].sum())
        weight = 1 / (1 + state.scatter + state.sigma[mine] ** 2)
        expected = [
            np.cov(m[mine, k], np.minimum(state.level[mine], 10), aweights=weight, ddof=0) for k in range(3)
        ]  # fmt: skip
        assert correlation[i] == pytest.approx([c[0, 1] / np.sqrt(c[0, 0] * c[1, 1]) for c in expected])
    assert squares[1] == twin[1] == squares[3] == 0


def test_products_with_the_pairwise_matrix_are_those_of_the_matrix_itself() -> None:
    state = State()
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((7, 3, 2))
    table = np.zeros((7, 3, 12))
    for k in range(3):
        np.add.at(table[:, k], (state.crystal, state.row[:, k]), state.level)
    table[~state.active] = 0
    matrix = np.einsum("ikr,jlr->ikjl", table, table)
    matrix[np.arange(7), :, np.arange(7)] = 0
    expected = np.einsum("ikjl,jld->ikd", matrix, vectors)
    found = correlate(
        state.offsets, state.index, state.rows, state.level, state.active, vectors, np.zeros((12, 2))
    )  # fmt: skip
    assert found == pytest.approx(expected)


def test_levels_are_free_of_scale_and_b_factor() -> None:
    rng = np.random.default_rng(4)
    s2, shell = rng.uniform(0, 0.04, 6000), np.zeros(6000, dtype=np.int32)
    scale, b = np.repeat([0.3, 1.0, 4.0], 2000), np.repeat([-10.0, 0.0, 12.0], 2000)
    intensity = 100 * scale * np.exp(-b * s2) * rng.gamma(4, 0.25, 6000)
    log_scale, b_factor = np.zeros((2, 3))
    level, noise, sums = np.empty(6000), np.empty(6000), np.zeros((1, 2))
    sigma, mean = np.ones(6000), np.array([100.0])
    for _ in range(4):
        fit_levels(
            np.array([0, 2000, 4000, 6000]), s2, shell, intensity, sigma, mean, log_scale, b_factor, 25.0, level, noise,
            sums,
        )  # fmt: skip
    assert np.exp(log_scale) == pytest.approx([0.3, 1.0, 4.0], rel=0.06)
    assert b_factor == pytest.approx([-10, 0, 12], abs=2.5)
    assert noise == pytest.approx(sigma / (intensity / level))


@pytest.mark.parametrize(("space_group", "group"), [("P 63", "6/m"), ("P 63", "6"), ("P 3", "-3_H")])
def test_crystals_are_resolved(space_group: str, group: str) -> None:
    run = make_run(space_group)
    o = observe(run, group, polarisation=None)
    found = resolve(o)
    right = run.right(found, o)
    assert right.mean() >= 0.99
    assert found.resolved.mean() > 0.95
    assert right[found.resolved].mean() >= 0.995
    assert found.agreement > 0.98
    assert np.median(found.correlation_difference) > 0.3
    # Most crystals stay as they are.
    assert max(found.counts, key=lambda name: found.counts[name]) == "h,k,l"


def test_result_depends_neither_on_the_order_of_rows_nor_on_memory() -> None:
    run = make_run()
    order = np.random.default_rng(8).permutation(run.reflections.num_rows)
    first = resolve(observe(run, "6/m"))
    shuffled = resolve(observe(replace(run, reflections=run.reflections.take(order)), "6/m"))
    on_disk = resolve(observe(run, "6/m", memory_limit=1 << 20))
    for other in (shuffled, on_disk):
        assert np.array_equal(first.operator, other.operator)
        assert np.array_equal(first.resolved, other.resolved)
        assert first.probability == pytest.approx(other.probability, abs=1e-3)


def test_nothing_happens_without_ambiguity() -> None:
    run = make_run()
    found = resolve(observe(run, "6/mmm"))
    assert found.operators.names == ("h,k,l",)
    assert found.resolved.all()
    assert merge(run, "6/mmm", "none", ambiguity="auto").history["indexing_ambiguity"] == "there is none"
    assert "indexing_ambiguity" not in merge(run, "6/mmm", "none").history


def test_noise_is_not_resolved_while_together_it_would_agree() -> None:
    run = make_run(random=True, noise=0.001)
    o = observe(run, "6/m")
    found = resolve(o)
    assert found.resolved.mean() < 0.05
    levels = levels_of(o, found.operators)
    everyone = np.ones(240, dtype=bool)
    together = assign_together(levels, everyone).scores.argmax(axis=1)
    assert half_correlation(o, found, together) > 0.1
    assert abs(half_correlation(o, found, found.operator)) < 0.1


def half_correlation(o: Observations, found: Ambiguity, operator: NDArray[np.int64]) -> float:
    """CC1/2 with operators, from plain means of intensities."""
    forced = reindexed(o, replace(found, operator=operator, resolved=np.ones(len(operator), dtype=bool)))
    means = []
    for half in (0, 1):
        mine = forced.half[forced.crystal] == half
        count = np.bincount(forced.reflection[mine], minlength=len(forced.hkl))
        total = np.bincount(forced.reflection[mine], forced.intensity[mine], len(forced.hkl))
        means.append(np.where(count > 0, total / np.maximum(count, 1), np.nan))
    both = np.isfinite(means).all(axis=0)
    return float(np.corrcoef(means[0][both], means[1][both])[0, 1])


def test_twins_of_equal_parts_are_left_out() -> None:
    run = make_run(n=300, n_observed=200, twins=100)
    o = observe(run, "6/m")
    found = resolve(o)
    twin = o.facts.frame < 100
    assert found.resolved[twin].mean() < 0.2
    assert found.resolved[~twin].mean() > 0.95
    assert any("twin" in reason for reason in found.reasons)


def test_merging_resolves_and_says_what_was_done() -> None:
    run = make_run()
    truth = dict(zip(map(tuple, point_group("6/m").asu(run.hkl).tolist()), run.truth, strict=True))
    merged = merge(run, "6/m", ambiguity="auto", polarisation=None)
    as_is = merge(run, "6/m", polarisation=None)
    same = [np.corrcoef(m.intensity, [truth[tuple(h)] for h in hkl.tolist()])[0, 1]
            for m in (merged, as_is) for hkl in (m.hkl, m.hkl[:, [1, 0, 2]] * [1, 1, -1])
            for hkl in (point_group("6/m").asu(hkl),)]  # fmt: skip
    assert max(same[:2]) > max(same[2:]) + 0.1
    history = merged.history["indexing_ambiguity"]
    assert sum(history["operators"].values()) == len(history["chosen"]) == 240 - history["unresolved"]
    assert {item["operator"] for item in history["chosen"]} == {"h,k,l", "k,h,-l"}
    assert as_is.history["indexing_ambiguity"] == "left as it is: h,k,l, or k,h,-l"
    rejected = [item for item in merged.history["crystals"]["rejected"] if "ambiguity" in item["reason"]]
    assert len(rejected) == history["unresolved"]


def test_references_decide_which_way_is_right(tmp_path: Path) -> None:
    run = make_run()
    mtz = gemmi.Mtz(with_base=True)
    mtz.spacegroup = gemmi.SpaceGroup("P 63")
    mtz.set_cell_for_all(HEXAGONAL.gemmi)
    mtz.add_dataset("truth")
    mtz.add_column("F", "F")
    mtz.set_data(np.column_stack([run.hkl, np.sqrt(run.truth)]).astype(np.float32))
    mtz.write_to_file(str(tmp_path / "truth.mtz"))
    o = observe(run, "6/m")
    found = resolve(o, tmp_path / "truth.mtz")
    right = run.right(found, o, together=False)
    assert right.mean() >= 0.99
    assert found.resolved.mean() > 0.9
    assert found.reference == str(tmp_path / "truth.mtz")
    merged = merge(run, "6/m", ambiguity=tmp_path / "truth.mtz", polarisation=None)
    assert merged.history["indexing_ambiguity"]["reference"] == str(tmp_path / "truth.mtz")
    merged.to_mtz(tmp_path / "merged.mtz")
    again = resolve_ambiguity(run, "6/m", reference=tmp_path / "merged.mtz")
    assert (again.operator == found.operator).mean() > 0.99
    assert len(read_merged(tmp_path / "merged.mtz")) == len(merged)


@pytest.mark.parametrize("suffix", [".pdb", ".cif"])
def test_models_decide_which_way_is_right(tmp_path: Path, suffix: str) -> None:
    structure = random_structure()
    path = tmp_path / f"model{suffix}"
    structure.write_pdb(str(path)) if suffix == ".pdb" else structure.make_mmcif_document().write_file(str(path))
    hkl, truth = structure_factors(structure)
    run = make_run()
    # The same crystals with the intensities of this structure.
    values = dict(zip(map(tuple, point_group("6/m").asu(hkl).tolist()), truth, strict=True))
    operators = ambiguity_operators(HEXAGONAL, point_group("6/m"))
    table = run.reflections
    measured = np.stack([table[x].to_numpy() for x in "hkl"], axis=1)
    asu = point_group("6/m").asu(operators.reindexed(measured, run.operator[table["frame"].to_numpy()]))
    intensity = [values.get(tuple(h), 0.0) for h in asu.tolist()] * np.random.default_rng(1).uniform(0.2, 1, len(asu))
    place = table.schema.get_field_index("intensity")
    table = table.set_column(place, "intensity", pa.array(intensity.astype(np.float32)))
    run = replace(run, reflections=table)
    o = observe(run, "6/m", polarisation=None)
    found = resolve(o, path)
    assert run.right(found, o, together=False).mean() >= 0.98


def random_structure() -> gemmi.Structure:
    """A protein-like crowd of atoms in P 63."""
    rng = np.random.default_rng(11)
    structure, model, chain = gemmi.Structure(), gemmi.Model(1), gemmi.Chain("A")
    structure.cell, structure.spacegroup_hm = HEXAGONAL.gemmi, "P 63"
    for i, position in enumerate(rng.random((200, 3)), start=1):
        residue, atom = gemmi.Residue(), gemmi.Atom()
        residue.name, residue.seqid = "ALA", gemmi.SeqId(str(i))
        atom.name, atom.element, atom.b_iso = "CA", gemmi.Element("C"), 20.0
        atom.pos = structure.cell.orthogonalize(gemmi.Fractional(*position))
        residue.add_atom(atom)
        chain.add_residue(residue)
    model.add_chain(chain)
    structure.add_model(model)
    structure.setup_entities()
    structure.setup_cell_images()
    return structure


def structure_factors(structure: gemmi.Structure) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Summed atom by atom, not by way of a map."""
    group = structure.find_spacegroup()
    hkl = gemmi.make_miller_array(structure.cell, group, 2.5)
    calculator = gemmi.StructureFactorCalculatorX(structure.cell)
    factors = [calculator.calculate_sf_from_model(structure[0], h) for h in hkl.tolist()]
    return np.asarray(hkl), 0.1 * np.abs(factors) ** 2


def test_references_of_other_crystals_are_refused(tmp_path: Path) -> None:
    o = observe(make_run(), "6/m")
    structure = random_structure()
    structure.spacegroup_hm = "P 3"
    structure.write_pdb(str(tmp_path / "other.pdb"))
    with pytest.raises(MergeError, match="another symmetry"):
        resolve(o, tmp_path / "other.pdb")
    structure.spacegroup_hm = "P 63"
    structure.cell = gemmi.UnitCell(60, 60, 50, 90, 90, 120)
    structure.write_pdb(str(tmp_path / "large.pdb"))
    with pytest.raises(MergeError, match="another unit cell"):
        resolve(o, tmp_path / "large.pdb")
    with pytest.raises(MergeError, match="no such reference"):
        resolve(o, tmp_path / "missing.pdb")


def test_too_few_crystals_are_refused() -> None:
    run = make_run()
    few = replace(run, crystals=run.crystals.slice(0, 1), reflections=run.reflections.slice(0, 90))
    with pytest.raises(MergeError, match="too few crystals"):
        resolve(observe(few, "6/m"))


def test_clusters_lie_apart_in_the_plane() -> None:
    run = make_run(n=120, n_observed=400)
    o = observe(run, "6/m")
    found = resolve(o)
    crystals, points = embed(o, found, 100)
    assert points.shape == (100, 2)
    operator = found.operator[crystals]
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    centres = np.array([unit[operator == k].mean(axis=0) for k in (0, 1)])
    assert np.mean(np.argmax(unit @ centres.T, axis=1) == operator) > 0.97
