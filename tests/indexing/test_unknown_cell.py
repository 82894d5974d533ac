"""Finding lattices of no known cell in made-up stills."""

import time

import gemmi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell, parameters_of
from sfxlab.indexing import index_without_cell, lattice_kernels, vector_kernels
from sfxlab.indexing.acceptance import SHARP_TOLERANCES, chance
from sfxlab.indexing.reasons import Reason, kind
from sfxlab.recipe import IndexingRecipe

K, DISTANCE, PIXEL = 0.75, 0.15, 75e-6  # 1/Å, m, m
seeds = st.integers(0, 10_000)

CELLS = {
    "aP": UnitCell(40, 52, 63, 81, 94, 102),
    "mP": UnitCell(45, 62, 71, 90, 103, 90, "monoclinic", "P", "b"),
    "mC": UnitCell(91, 73, 52, 90, 105, 90, "monoclinic", "C", "b"),
    "oP": UnitCell(50, 60, 70, lattice_type="orthorhombic"),
    "oC": UnitCell(61.4, 122.6, 168, lattice_type="orthorhombic", centring="C"),
    "oI": UnitCell(60, 84, 110, lattice_type="orthorhombic", centring="I"),
    "oF": UnitCell(80, 120, 150, lattice_type="orthorhombic", centring="F"),
    "tP": UnitCell(79.3, 79.3, 37.8, 90, 90, 90, "tetragonal", "P", "c"),
    "tI": UnitCell(120, 120, 80, 90, 90, 90, "tetragonal", "I", "c"),
    "hP": UnitCell(93.4, 93.4, 131.1, 90, 90, 120, "hexagonal", "P", "c"),
    "hR": UnitCell(66.2, 66.2, 150.2, 90, 90, 120, "rhombohedral", "H", "c"),
    "cP": UnitCell(96.4, 96.4, 96.4, lattice_type="cubic"),
    "cI": UnitCell(105, 105, 105, lattice_type="cubic", centring="I"),
    "cF": UnitCell(140, 140, 140, lattice_type="cubic", centring="F"),
}


def still(cell, rotation, rng, n_spots, outliers=0.2, thickness=0.06):
    """Scattering vectors (n, 3) of spots with 0.3 pixels of noise and outliers, 1/Å, and the primitive basis.

    Nodes have a radius of 0.002 1/Å, or `thickness` of the distance to the next one where that is less.
    """
    basis = rotation.as_matrix() @ cell.reciprocal_basis
    radius = min(0.002, thickness / max(cell.lengths))
    # The Ewald sphere within `reach`, as thick as the reflections, times the nodes per volume: twice the spots wanted.
    volume = abs(np.linalg.det(cell.primitive_transform)) * cell.volume
    reach = min(np.sqrt(2 * n_spots / (np.pi * 3.4 * radius * volume)), 0.45)
    limits = [int(length * reach) + 1 for length in cell.lengths]
    hkl = np.stack(np.meshgrid(*(np.arange(-n, n + 1) for n in limits), indexing="ij"), axis=-1).reshape(-1, 3)
    hkl = hkl[cell.allows(hkl) & np.any(hkl != 0, axis=1)]
    q = hkl @ basis.T
    ray = q[np.linalg.norm(q, axis=1) < reach] + [0, 0, K]
    length = np.linalg.norm(ray, axis=1)
    near = np.abs(length - K) < 1.7 * radius
    ray = ray[near][rng.permutation(near.sum())[:n_spots]]
    place = ray[:, :2] / ray[:, 2:] * DISTANCE + rng.normal(0, 0.3 * PIXEL, (len(ray), 2))
    n, largest = round(outliers * len(place)), np.linalg.norm(place, axis=1).max()
    angle, distance = rng.uniform(0, 2 * np.pi, n), largest * np.sqrt(rng.uniform(0, 1, n))
    place = np.concatenate([place, np.column_stack([distance * np.cos(angle), distance * np.sin(angle)])])
    ray = np.column_stack([place, np.full(len(place), DISTANCE)])
    return (ray / np.linalg.norm(ray, axis=1)[:, None] - [0, 0, 1]) * K, basis @ np.linalg.inv(cell.primitive_transform)


def misorientation(found, true):
    """Angle in degrees between two primitive bases; 180 where they are not one lattice."""
    change = np.rint(np.linalg.inv(true) @ found)
    if round(np.linalg.det(change)) != 1:
        return 180.0
    u, _, vt = np.linalg.svd(found @ np.linalg.inv(true @ change))
    return np.degrees(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1)))


@pytest.mark.parametrize("name", CELLS)
def test_a_lattice_of_any_kind_is_found_without_its_cell(name):
    rng = np.random.default_rng(21)
    right, false = 0, 0
    for n_spots in (25, 50, 100, 300):
        for rotation in Rotation.random(3, rng=rng):
            q, basis = still(CELLS[name], rotation, rng, n_spots)
            angles = [misorientation(x.basis, basis) for x in index_without_cell(q, IndexingRecipe()).lattices]
            right += any(angle < 1 for angle in angles)
            false += sum(angle >= 1 for angle in angles)
    assert right >= 11
    assert false <= 1


def test_fifteen_spots_are_enough_most_of_the_time():
    rng, right, false = np.random.default_rng(22), 0, 0
    for name in CELLS:
        for rotation in Rotation.random(2, rng=rng):
            q, basis = still(CELLS[name], rotation, rng, 15, outliers=0.0)
            angles = [misorientation(x.basis, basis) for x in index_without_cell(q, IndexingRecipe()).lattices]
            right += any(angle < 1 for angle in angles)
            false += sum(angle >= 1 for angle in angles)
    assert right >= 0.75 * 2 * len(CELLS)
    assert false <= 0.1 * 2 * len(CELLS)


def test_a_large_cell_is_found_with_its_long_axes():
    cell, rng = UnitCell(118, 224, 331, lattice_type="orthorhombic"), np.random.default_rng(23)
    for rotation in Rotation.random(4, rng=rng):
        q, basis = still(cell, rotation, rng, 200)
        (lattice,) = index_without_cell(q, IndexingRecipe()).lattices
        assert misorientation(lattice.basis, basis) < 0.5


def test_further_lattices_of_the_same_cell_are_found():
    rng = np.random.default_rng(24)
    stills = [still(CELLS["tP"], rotation, rng, 80, 0.05) for rotation in Rotation.random(2, rng=rng)]
    found = index_without_cell(np.concatenate([q for q, _ in stills]), IndexingRecipe()).lattices
    assert len(found) == 2
    for _, basis in stills:
        assert min(misorientation(lattice.basis, basis) for lattice in found) < 0.5
    claimed = np.concatenate([lattice.peaks for lattice in found])
    assert len(claimed) == len(set(claimed))


def random_peaks(rng, n):
    x = rng.uniform(-0.3, 0.3, (n, 2))
    return np.column_stack([x, np.sqrt(K**2 - (x**2).sum(axis=1)) - K])


def test_random_peaks_have_no_lattice_and_say_why():
    rng = np.random.default_rng(25)
    for n in (10, 15, 30, 60, 150):
        for _ in range(4):
            found = index_without_cell(random_peaks(rng, n), IndexingRecipe())
            assert found.lattices == ()
            assert kind(found.reason) is Reason.NO_LATTICE
            assert f"{n} peaks" in found.reason


def test_frames_without_a_lattice_take_no_more_than_five_times_as_long():
    def seconds(q):
        start = time.thread_time()
        index_without_cell(q, IndexingRecipe())
        return time.thread_time() - start

    rng = np.random.default_rng(26)
    hits = [still(CELLS[name], Rotation.random(rng=rng), rng, 80)[0] for name in list(CELLS)[::2]]
    usual = np.median([seconds(q) for q in [hits[0], *hits]][1:])  # compiled at first use
    crystal = still(CELLS["cP"], Rotation.random(rng=rng), rng, 250, 0)[0]
    for q in (random_peaks(rng, 60), random_peaks(rng, 250), random_peaks(rng, 5000)):
        assert seconds(q) < 5 * usual
        assert seconds(np.concatenate([q, crystal])) < 5 * usual


def test_a_search_that_takes_too_long_says_so():
    rng = np.random.default_rng(27)
    q, _ = still(CELLS["tP"], Rotation.random(rng=rng), rng, 80)
    assert index_without_cell(q, IndexingRecipe()).lattices
    found = index_without_cell(q, IndexingRecipe(time_limit=1e-9))
    assert found.lattices == ()
    assert kind(found.reason) is Reason.TIME_LIMIT


def test_no_further_lattice_is_looked_for_after_the_time_limit(monkeypatch):
    rng = np.random.default_rng(24)
    stills = [still(CELLS["tP"], rotation, rng, 80, 0.05)[0] for rotation in Rotation.random(2, rng=rng)]
    clock = iter([0.0, 1.0, 11.0])
    monkeypatch.setattr("sfxlab.indexing.unknown_cell.time.monotonic", lambda: next(clock))
    (lattice,) = index_without_cell(np.concatenate(stills), IndexingRecipe(time_limit=10, max_axis=200)).lattices
    assert 70 < len(lattice.peaks) < 100


def test_peaks_far_from_any_lattice_are_a_loose_fit():
    rng = np.random.default_rng(28)
    q, _ = still(CELLS["cF"], Rotation.random(rng=rng), rng, 250, 0.0)
    kinds = set()
    for noise in np.linspace(0.1, 0.2, 9):
        found = index_without_cell(q + rng.normal(0, noise / 99, q.shape), IndexingRecipe())
        kinds.add(None if found.lattices else kind(found.reason))
    assert Reason.LOOSE_FIT in kinds


def test_large_nodes_spoil_the_fit_across_the_sphere_only():
    rng, found = np.random.default_rng(29), 0
    for rotation in Rotation.random(6, rng=rng):
        q, basis = still(CELLS["oP"], rotation, rng, 150, thickness=0.16)
        lattices = index_without_cell(q, IndexingRecipe()).lattices
        found += any(misorientation(lattice.basis, basis) < 1 for lattice in lattices)
    assert found >= 5


def test_axes_longer_than_are_looked_for_rarely_make_false_lattices():
    """Two axes are right, a third one that is not suits half of the peaks."""
    cell, rng = UnitCell(60, 70, 170, lattice_type="orthorhombic"), np.random.default_rng(30)
    false, loose = 0, 0
    for rotation in Rotation.random(8, rng=rng):
        q, basis = still(cell, rotation, rng, 120)
        found = index_without_cell(q, IndexingRecipe(max_axis=100))
        false += any(misorientation(lattice.basis, basis) > 1 for lattice in found.lattices)
        loose += kind(found.reason) is Reason.LOOSE_FIT
    assert false <= 2
    assert loose >= 4


def test_too_few_peaks_are_said_to_be_too_few():
    found = index_without_cell(np.eye(3), IndexingRecipe(min_peaks=8))
    assert found.reason == "too few peaks: 3, at least 8 needed"


def test_the_more_lattices_are_tried_the_less_a_fit_says():
    errors = np.full(12, 0.04)
    few, many = (chance(errors, trials, SHARP_TOLERANCES) for trials in (6.0, 12.0))
    assert many == pytest.approx(few + 6)
    # Nine peaks within 0.05 of whole indices, three more being free.
    assert few == pytest.approx(9 * -3 + 6 + np.log10(len(SHARP_TOLERANCES)))
    assert chance(errors, 6.0) > few


def test_the_order_of_the_peaks_does_not_matter():
    rng = np.random.default_rng(26)
    q, _ = still(CELLS["oP"], Rotation.random(rng=rng), rng, 50)
    one, other = (index_without_cell(peaks, IndexingRecipe()).lattices[0] for peaks in (q, q[::-1].copy()))
    np.testing.assert_allclose(one.basis, other.basis, rtol=1e-9)


def test_a_lattice_with_axes_out_of_bounds_is_not_found():
    rng = np.random.default_rng(27)
    q, basis = still(CELLS["tP"], Rotation.random(rng=rng), rng, 60)
    for recipe in (IndexingRecipe(max_axis=60), IndexingRecipe(min_axis=45)):
        assert all(misorientation(x.basis, basis) > 1 for x in index_without_cell(q, recipe).lattices)


@settings(deadline=None, max_examples=20)
@given(seeds)
def test_grid_scores_are_those_of_the_formula(seed):
    rng = np.random.default_rng(seed)
    q = rng.uniform(-0.2, 0.2, (3, 30)).astype(np.float32)
    steps = (np.diag(rng.uniform(4, 9, 3)) @ Rotation.random(rng=rng).as_matrix()).astype(np.float32)
    extent = np.array([2, 3, 4])
    scores = vector_kernels.score_grid(q, steps, extent, 10.0, 30.0)
    for i, j, k in np.ndindex(scores.shape):
        v = (i - 2) * steps[0] + (j - 3) * steps[1] + k * steps[2]
        values = v.astype(float) @ q
        values = values[np.abs(values) > 0.5]
        expected = 0.0
        if 10 <= np.linalg.norm(v) <= 30 and len(values) >= 6:
            expected = (np.maximum(0, 1 - 16 * (values - np.rint(values)) ** 2) - 1 / 3).sum()
            expected /= 0.3944 * np.sqrt(len(values))
        # A value that lies just at ½ may count or not.
        if not np.any(np.abs(np.abs(values) - 0.5) < 1e-4):
            assert scores[i, j, k] == pytest.approx(expected, abs=0.02)


@settings(deadline=None, max_examples=50)
@given(seeds)
def test_the_reduced_basis_has_the_lengths_of_the_niggli_cell(seed):
    rng = np.random.default_rng(seed)
    basis = rng.normal(0, 30, (3, 3))
    if abs(np.linalg.det(basis)) < 2000:
        return
    vector = gemmi.GruberVector(gemmi.UnitCell(*parameters_of(basis)), "P")
    vector.niggli_reduce()
    found = lattice_kernels.reduced(basis)
    assert np.linalg.det(found) == pytest.approx(abs(np.linalg.det(basis)))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), sorted(vector.cell_parameters()[:3]), rtol=1e-6)


@pytest.mark.parametrize("prime", [2, 3, 5, 7])
def test_supercells_are_as_many_and_as_large_as_they_should_be(prime):
    basis = UnitCell(31, 37, 41, 80, 95, 100).real_basis
    conditions = lattice_kernels.congruences(prime)
    larger = [lattice_kernels.multiplied(basis, m, prime) for m in conditions]
    shapes = {tuple(np.round(np.linalg.norm(lattice_kernels.reduced(x), axis=1), 6)) for x in larger}
    assert len(conditions) == len(shapes) == prime**2 + prime + 1
    for m, supercell in zip(conditions, larger, strict=True):
        change = supercell @ np.linalg.inv(basis)
        np.testing.assert_allclose(np.rint(change) @ m % prime, 0)
        assert abs(np.linalg.det(change)) == pytest.approx(prime)
        smaller = lattice_kernels.divided(basis, m, prime)
        assert abs(np.linalg.det(smaller @ np.linalg.inv(basis))) == pytest.approx(1 / prime)


@settings(deadline=None, max_examples=15)
@given(seeds, st.sampled_from([2, 3]))
def test_supercells_and_subcells_are_led_back_to_the_cell(seed, prime):
    rng = np.random.default_rng(seed)
    q, reciprocal = still(CELLS["oP"], Rotation.random(rng=rng), rng, 80, 0.1)
    peaks = np.ascontiguousarray(q.T, dtype=np.float32)
    basis = lattice_kernels.reduced(np.linalg.inv(reciprocal))
    for m in lattice_kernels.congruences(prime)[::3]:
        supercell = lattice_kernels.reduced(lattice_kernels.multiplied(basis, m, prime))
        found = lattice_kernels.without_supercell(peaks, supercell, 0.2)
        assert misorientation(np.linalg.inv(found), reciprocal) < 0.5
        subcell = lattice_kernels.reduced(lattice_kernels.divided(basis, m, prime))
        found = lattice_kernels.without_subcell(peaks, subcell, 0.2)
        assert misorientation(np.linalg.inv(found), reciprocal) < 0.5


def test_the_tail_of_a_binomial_is_that_of_scipy():
    from scipy.stats import binom

    for least, n, p in ((3, 10, 0.1), (40, 60, 0.5), (1, 5, 0.02), (12, 12, 0.3)):
        assert lattice_kernels.log10_tail(least, n, p) == pytest.approx(binom.logsf(least - 1, n, p) / np.log(10))
