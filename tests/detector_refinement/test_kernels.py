"""Kernels of detector refinement against differences and plain linear algebra."""

from __future__ import annotations

import numpy as np

from sfxlab.crystal import UnitCell
from sfxlab.detector_refinement.bodies import centres_of, moved
from sfxlab.detector_refinement.kernels import add_crystal, panel_gradients
from sfxlab.diffraction.prediction import panel_inverses
from sfxlab.diffraction.refinement import allowed_strains
from sfxlab.diffraction.refinement_kernels import HUBER, gradients, residuals
from sfxlab.geometry import HC_EV_ANGSTROM, Detector

K = 9500.0 / HC_EV_ANGSTROM


def pairs_of(detector: Detector, make_stills):
    still = make_stills(detector, 1)[0]
    crystal, peaks = still.crystals[0], still.peaks
    q = detector.q(peaks.panel, peaks.fs, peaks.ss, still.photon_energy)
    bounds = detector.arrays.bounds[peaks.panel]
    place = np.stack([peaks.fs - bounds[:, 2], peaks.ss - bounds[:, 0]], axis=1).astype(np.float64)
    return crystal.basis, np.rint(q @ crystal.real_basis.T), peaks.panel.astype(np.int64), place


def test_gradients_by_moves_of_tilted_panels_are_differences(four_panels: Detector, make_stills) -> None:
    basis, hkl, panel, place = pairs_of(four_panels, make_stills)
    analytic = panel_gradients(hkl, panel, panel_inverses(four_panels), centres_of(four_panels), K, basis)
    for motion, step in enumerate([1e-7] * 3 + [1e-6] * 3):
        ends = []
        for sign in (-1, 1):
            moves = np.zeros((4, 6))
            moves[:, motion] = sign * step
            inverses = panel_inverses(moved(four_panels, moves))
            ends.append(residuals(hkl, panel, place, inverses, K, basis, np.zeros(2)))
        numeric = (ends[1] - ends[0]) / (2 * step)
        np.testing.assert_allclose(analytic[:, :, motion], numeric[:, :2], rtol=1e-5, atol=1e-5 * np.abs(numeric).max())
        assert not numeric[:, 2].any()


def test_sums_are_the_whole_normal_equations_with_the_crystal_eliminated(
    four_panels: Detector, make_stills, cell: UnitCell
) -> None:
    basis, hkl, panel, place = pairs_of(four_panels, make_stills)
    rotation, cell_basis = basis @ np.linalg.inv(cell.reciprocal_basis), cell.reciprocal_basis
    inverses, centres, strains = panel_inverses(four_panels), centres_of(four_panels), allowed_strains(cell, np.eye(3))
    now, deviation, pixel, excitation = np.array([0.002, -0.001]), 0.01, np.array([0.2, 0.3, 0.25, 0.4]), 4e-4
    normal, right = np.zeros((24, 24)), np.zeros(24)
    add_crystal(
        hkl, panel, place, inverses, centres, K, rotation, cell_basis, strains, now, deviation, pixel, excitation,
        normal, right,
    )  # fmt: skip
    r = residuals(hkl, panel, place, inverses, K, basis, np.zeros(2))
    weights = np.empty_like(r)
    own = pixel[panel]
    weights[:, :2] = (np.minimum(1, HUBER * own / np.hypot(r[:, 0], r[:, 1]) * np.sqrt(2)) / own**2)[:, None]
    weights[:, 2] = np.minimum(1, HUBER * excitation / np.abs(r[:, 2])) / excitation**2
    jacobian = np.zeros((len(hkl), 3, 24 + 5))
    moves = panel_gradients(hkl, panel, inverses, centres, K, basis)
    for i, p in enumerate(panel):
        jacobian[i, :2, 6 * p : 6 * p + 6] = moves[i]
    jacobian[:, :, 24:] = gradients(hkl, panel, inverses, K, rotation, cell_basis, strains, np.zeros(2), 0)
    rays = hkl @ basis.T + [0, 0, K]
    rays /= np.linalg.norm(rays, axis=1)[:, None]
    on_sphere = hkl @ basis.T + r[:, 2:] * rays
    for g, strain in enumerate(strains):
        jacobian[:, 2, 27 + g] = np.einsum("ij,jk,ik->i", rays, rotation @ strain @ rotation.T, on_sphere)
    whole = np.einsum("ica,ic,icb->ab", jacobian, weights, jacobian)
    gradient = np.einsum("ica,ic,ic->a", jacobian, weights, r)
    whole[27:, 27:] += np.eye(2) / deviation**2
    gradient[27:] += now / deviation**2
    eliminated = whole[:24, 24:] @ np.linalg.inv(whole[24:, 24:])
    scale = np.sqrt(np.outer(np.diag(whole)[:24], np.diag(whole)[:24]))
    np.testing.assert_allclose(normal / scale, (whole[:24, :24] - eliminated @ whole[24:, :24]) / scale, atol=1e-8)
    np.testing.assert_allclose(
        right / np.sqrt(np.diag(scale)),
        (gradient[:24] - eliminated @ gradient[24:]) / np.sqrt(np.diag(scale)),
        atol=1e-6,
    )
