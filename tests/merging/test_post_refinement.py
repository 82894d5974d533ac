"""Post-refinement of simulated crystals: what it recovers, what it does not invent, and its gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial.transform import Rotation

from sfxlab.crystal import point_group
from sfxlab.errors import MergeError
from sfxlab.merging import Merged, merge
from sfxlab.merging.observations import Observations, gather
from sfxlab.merging.partial_fit import PartialFit, start_fit
from sfxlab.merging.partiality_kernels import LN_RADIUS, N_COMMON, orient, times
from sfxlab.merging.post_refinement import PostRefinement, post_refine
from sfxlab.merging.refinement_kernels import evaluate
from sfxlab.merging.scaling import fit_scales


@pytest.fixture(scope="module")
def partial(mockdata: Callable[[str], ModuleType]) -> ModuleType:
    return mockdata("partial_crystals")


@pytest.fixture(scope="module")
def run(partial: ModuleType) -> Any:
    return partial.make_run(150, wild=0.002, lost=(17, 90), radius_spread=0.15)


def observations_of(run: Any) -> Observations:
    return gather([run], point_group("4/mmm"), extra=("h", "k", "l"))


@pytest.fixture(scope="module")
def fit(run: Any) -> PostRefinement:
    return post_refine(fit_scales(observations_of(run)))


def truth_of(merged: Merged, run: Any) -> np.ndarray:
    rows = {tuple(hkl): intensity for hkl, intensity in zip(run.hkl.tolist(), run.truth, strict=True)}
    return np.array([rows[tuple(hkl)] for hkl in merged.hkl.tolist()])


def residual(merged: Merged, run: Any) -> float:
    truth = truth_of(merged, run)
    k = (truth @ merged.intensity) / (merged.intensity @ merged.intensity)
    return float(np.abs(k * merged.intensity - truth).sum() / truth.sum())


def events(fit: PostRefinement) -> np.ndarray:
    return np.array([int(crystal.event[2:]) for crystal in fit.observations.crystals])


def misorientation(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Angles between bases as far as excitation errors tell, that is without rotations about the beam, degrees."""
    vectors = [Rotation.from_matrix(np.linalg.svd(f @ np.linalg.inv(t))[0] @ np.linalg.svd(f @ np.linalg.inv(t))[2])
               for f, t in zip(found, true, strict=True)]  # fmt: skip
    return np.degrees(np.linalg.norm([v.as_rotvec()[:2] for v in vectors], axis=1))


def test_partialities_bring_intensities_ten_times_nearer_to_the_truth_than_scaling(run: Any) -> None:
    partial, scaled = (merge(run, "4/mmm", model, polarisation=None) for model in ("partiality", "scaled"))
    assert residual(partial, run) < 0.1 * residual(scaled, run)
    assert np.corrcoef(truth_of(partial, run), partial.intensity)[0, 1] > 0.998
    assert partial.statistics().overall.completeness > 0.98 * scaled.statistics().overall.completeness
    assert partial.history["post_refinement"]["node_model"] == "sphere"


def test_orientations_and_radii_are_recovered(run: Any, fit: PostRefinement) -> None:
    order, used = events(fit), fit.accepted
    before = misorientation(fit.observations.facts.basis, run.basis[order])[used]
    after = misorientation(fit.basis, run.basis[order])[used]
    assert np.median(after) < 0.15 * np.median(before)
    assert np.median(np.abs(np.log(fit.radius / run.radius[order]))[used]) < 0.02
    assert np.std((np.log(fit.scale / run.scale[order]))[used]) < 0.1
    assert fit.bandwidth == pytest.approx(1e-3, rel=0.1)


def test_crystals_with_a_wrong_orientation_are_left_out_and_say_so(run: Any, fit: PostRefinement) -> None:
    left_out = {int(event) for event, reason in zip(events(fit), fit.reasons, strict=True) if reason}
    assert {17, 90} <= left_out
    assert len(left_out) <= 4
    history = merge(run, "4/mmm", "partiality", polarisation=None).history
    named = {entry["crystal"]: entry["reason"] for entry in history["crystals"]["rejected"]}
    assert named["data/partial.cxi //17, crystal 0"].endswith("disagree with the others")


def test_gaussian_nodes_are_told_from_spheres(partial: ModuleType) -> None:
    run = partial.make_run(60, node="gaussian", radius=5e-4, seed=3)
    scaling = fit_scales(observations_of(run))
    found = post_refine(scaling)
    assert found.node_model == "gaussian"
    assert found.ln_likelihood_gain > 100
    assert np.median(found.radius) == pytest.approx(5e-4, rel=0.05)


def test_strains_of_cells_are_recovered(partial: ModuleType) -> None:
    run = partial.make_run(100, strain_spread=1.5e-3, seed=4)
    cells = np.linalg.norm(np.linalg.inv(run.basis), axis=2)
    wrong = run.crystals
    median = np.median(cells, axis=0)
    for i, axis in enumerate("abc"):
        # Every crystal is given the median cell: what it is really like only intensities can say.
        wrong = wrong.set_column(wrong.schema.get_field_index(axis), axis, pa.array(np.full(100, median[i])))
        for x in "xyz":
            name = f"{axis}star_{x}"
            values = wrong.column(name).to_numpy() * cells[:, i] / median[i]
            wrong = wrong.set_column(wrong.schema.get_field_index(name), name, pa.array(values))
    fit = post_refine(fit_scales(observations_of(replace(run, crystals=wrong))), "sphere")
    found = np.linalg.norm(np.linalg.inv(fit.basis), axis=2)[:, 0] / median[0]
    true = cells[events(fit), 0] / median[0]
    assert np.std(found - true) < 0.3 * np.std(true)


@pytest.mark.parametrize("model", ["sphere", "gaussian"])
def test_gradients_of_the_cost_are_those_of_finite_differences(run: Any, model: Any) -> None:
    scaling = fit_scales(observations_of(run))
    fit = start_fit(scaling, model, scaling.accepted)
    rng = np.random.default_rng(2)
    n = N_COMMON + len(fit.strains)
    block = next(fit._blocks())
    start, stop = block.offsets[3], block.offsets[4]
    m, inverse = rng.uniform(20, 300, stop - start), rng.uniform(0.01, 0.1, stop - start)

    def cost(parameters: np.ndarray, spreads: np.ndarray) -> tuple[float, np.ndarray]:
        normal, right, basis, row = np.empty((n + 2, n + 2)), np.empty(n + 2), np.empty((2, 3, 3)), np.empty(n + 2)
        value = evaluate(
            fit.node_model, start, stop, *(block.columns[name] for name in "hkl"), block.reflection, block.intensity,
            fit.s2, fit.rotation[3], fit.wavenumber[3], fit.cell_basis, fit.strains, parameters, spreads, m, inverse,
            normal, right, basis, row,
        )  # fmt: skip
        return value, right

    point, spreads = fit.parameters[3].copy(), np.array([1e-6, 4e-8])
    steps = np.array([1e-5, 1e-3, 1e-8, 1e-8, 1e-5, *[1e-8] * (n - 5), 1e-10, 1e-12])
    _, right = cost(point, spreads)
    both = np.concatenate([point, spreads])
    for i, step in enumerate(steps):
        above, below = both.copy(), both.copy()
        above[i] += step
        below[i] -= step
        slope = (cost(above[:n], above[n:])[0] - cost(below[:n], below[n:])[0]) / (2 * step)
        assert -right[i] == pytest.approx(slope, rel=2e-4, abs=1e-4 * abs(right * steps).max() / step)


@pytest.mark.parametrize("kind", ["exponential", "constant"])
def test_halves_of_pure_noise_do_not_correlate(run: Any, kind: str) -> None:
    figures = []
    for seed in range(4):
        rng, n = np.random.default_rng(seed), run.reflections.num_rows
        values = rng.exponential(100.0, n) if kind == "exponential" else rng.normal(50.0, 30.0, n)
        merged = merge(run.with_intensities(values), "4/mmm", "partiality", polarisation=None)
        overall = merged.statistics().overall
        figures.append(overall.cc_half * np.sqrt(overall.n_pairs))
    # Four normal deviates of standard deviation one; rejection of crystals is on.
    assert abs(np.mean(figures)) < 2.0
    assert np.max(np.abs(figures)) < 4.0


@pytest.mark.parametrize("model", ["none", "scaled", "partiality"])
def test_halves_differ_as_much_as_their_errors_say_in_every_shell(partial: ModuleType, model: Any) -> None:
    run = partial.make_run(250, seed=6)
    merged = merge(run, "4/mmm", model, polarisation=None)
    z = (merged.half1.intensity - merged.half2.intensity) / np.hypot(merged.half1.sigma, merged.half2.sigma)
    order = np.argsort(merged.cell.gemmi.calculate_1_d2_array(merged.hkl))
    for shell in np.array_split(order, 4):
        known = z[shell][np.isfinite(z[shell])]
        assert len(known) > 200
        assert np.std(known) == pytest.approx(1.0, abs=0.1 + 1.5 / np.sqrt(2 * len(known)))


def test_fitted_parameters_are_counted_in_the_errors(fit: PostRefinement) -> None:
    used = fit.accepted
    # ln G, B, two rotations, ln R and two strains; what is usual decides a part of them.
    assert np.all((fit.n_parameters[used] > 2) & (fit.n_parameters[used] < 7))
    n = np.diff(fit.observations.offsets)[used]
    assert fit.inflation[used] == pytest.approx((n + fit.n_parameters[used]) / (n - fit.n_parameters[used]))


def test_order_of_crystals_and_blocks_changes_nothing_that_counts(partial: ModuleType) -> None:
    run = partial.make_run(40, seed=8)
    rng = np.random.default_rng(1)
    shuffled = replace(
        run, crystals=run.crystals.take(rng.permutation(40)), frames=run.frames.take(rng.permutation(40))
    )
    one = merge(run, "4/mmm", "partiality", polarisation=None)
    other = merge(shuffled, "4/mmm", "partiality", polarisation=None)
    assert np.array_equal(one.intensity, other.intensity)
    in_blocks = merge(run, "4/mmm", "partiality", polarisation=None, memory_limit=160 * len(run.reflections) // 3)
    assert np.array_equal(one.hkl, in_blocks.hkl)
    assert in_blocks.intensity == pytest.approx(one.intensity, rel=1e-3, abs=1e-2)


def test_observations_that_came_out_too_low_do_not_count_more_for_the_small_error_they_claim(
    partial: ModuleType,
) -> None:
    made = partial.make_run(60, seed=5)
    table = made.reflections
    sigma, intensity = (table.column(name).to_numpy().copy() for name in ("sigma", "intensity"))
    low = np.random.default_rng(0).random(len(sigma)) < 0.01
    # As where a strong spot is beside its prediction: few photons, and an error by counting that says so.
    intensity[low], sigma[low] = 0.0, 0.2 * sigma[low]
    for name, values in (("intensity", intensity), ("sigma", sigma)):
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values))
    fits = [post_refine(fit_scales(observations_of(run)), "sphere") for run in (made, replace(made, reflections=table))]
    weights = [next(fit.blocks())[2] for fit in fits]
    sigmas = fits[1].observations.column("least_sigma")
    of_low = fits[1].observations.intensity == 0.0
    assert of_low.any()
    assert np.median(sigmas[of_low]) == pytest.approx(np.median(sigmas[~of_low]), rel=0.3)
    assert weights[1][of_low].sum() < 1.5 * weights[0][of_low].sum()


def test_a_few_crystals_are_enough_to_go_on(partial: ModuleType) -> None:
    merged = merge(partial.make_run(4), "4/mmm", "partiality", polarisation=None, min_observations=1)
    assert len(merged) > 50
    assert np.all(np.isfinite(merged.intensity))
    assert np.all(merged.sigma > 0)


def test_rotations_and_strains_are_put_together_rightly(partial: ModuleType) -> None:
    observations = observations_of(partial.make_run(6))
    scaling = fit_scales(observations)
    fit = PartialFit(scaling, "sphere", scaling.accepted)
    basis = np.empty((2, 3, 3))
    fit.parameters[2, 2:4], fit.parameters[2, N_COMMON:] = (0.02, -0.03), (0.01, -0.004)
    orient(fit.rotation[2], fit.cell_basis, fit.strains, fit.parameters[2], basis)
    turn = Rotation.from_rotvec([0.02, -0.03, 0.0]).as_matrix() @ fit.rotation[2]
    stretch = np.eye(3) + 0.01 * fit.strains[0] - 0.004 * fit.strains[1]
    assert basis[0] == pytest.approx(turn)
    assert basis[1] == pytest.approx(np.linalg.inv(stretch) @ fit.cell_basis)
    assert times(basis[0], 1.0, 2.0, 3.0) == pytest.approx(turn @ [1, 2, 3])
    # What the tables say is what the fit begins with.
    start = PartialFit(scaling, "sphere", scaling.accepted)
    assert start.bases() == pytest.approx(observations.facts.basis, abs=1e-6)
    assert np.all(start.parameters[:, LN_RADIUS] == 0.0)


def test_crystals_without_energy_and_unknown_models_are_explained(partial: ModuleType) -> None:
    run = partial.make_run(4)
    place = run.frames.schema.get_field_index("photon_energy")
    dark = replace(
        run, frames=run.frames.set_column(place, "photon_energy", pa.array([9500.0, np.nan, 9500.0, 9500.0]))
    )
    with pytest.raises(MergeError, match="without a photon energy"):
        merge(dark, "4/mmm", "partiality", polarisation=None)
    with pytest.raises(MergeError, match="unknown model of nodes"):
        merge(run, "4/mmm", "partiality", polarisation=None, node_model="cube")  # type: ignore[arg-type]


def test_reference_crystals_of_an_independent_program_are_brought_to_the_truth(shared_data: Any, tmp_path: Any) -> None:
    import sfxlab

    folder = shared_data / "partial_lyso"
    imported = sfxlab.import_stream(folder / "partial_lyso.stream.gz", tmp_path / "run")
    merged = merge(imported, "4/mmm", "partiality", d_min=1.8, d_max=30.0, polarisation=None)
    truth = sfxlab.read_merged(folder / "truth" / "lyso_true.hkl.gz", cell=merged.cell)
    overall = merged.statistics().overall
    assert sfxlab.compare(merged, truth).overall.cc > 0.9997
    assert overall.rsplit < 0.029
    assert overall.completeness > 0.94
