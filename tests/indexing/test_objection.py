"""Why lattices are not believed, against plain numpy."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from scipy.stats import binom

from sfxlab.crystal import UnitCell
from sfxlab.indexing import target_of
from sfxlab.indexing.objection import claims, layers_of
from sfxlab.indexing.search import log_factorials

K = np.array([0.0, 0.0, 0.75])  # 1/Å
TARGET = target_of(UnitCell(40, 52, 63, 81, 94, 102))


def peaks(rng, n, noise):
    """Peaks (3, n) near nodes of the target in some orientation, 1/Å, on the Ewald sphere, and its real axes."""
    basis = Rotation.random(rng=rng).apply(TARGET.basis)
    x, y = rng.uniform(-0.3, 0.3, (2, n))
    q = np.linalg.inv(basis) @ np.rint(basis @ np.array([x, y, np.sqrt(K[2] ** 2 - x**2 - y**2) - K[2]]))
    rays = q + rng.normal(0, noise, q.shape) + K[:, None]
    return np.ascontiguousarray(rays * K[2] / np.linalg.norm(rays, axis=0) - K[:, None]), basis


def closeness(q, basis):
    """The same of peaks (3, n) by matrices."""
    indices, normal = q.T @ basis.T, (q.T + K) / np.linalg.norm(q.T + K, axis=1)[:, None]
    misfit = (indices - np.rint(indices)) @ np.linalg.inv(basis).T
    along = (misfit - (misfit * normal).sum(axis=1)[:, None] * normal) @ basis.T
    shown = 1 - (normal @ basis.T) * (normal @ np.linalg.inv(basis))
    close, telling = np.abs(along) < 0.125 * np.clip(shown, 0.1, 1), shown > 0.3
    of_telling = [close[telling[:, a], a].mean() if telling[:, a].sum() >= 6 else 0 for a in range(3)]
    return np.maximum(close.mean(axis=0), of_telling).min()


@pytest.mark.parametrize("noise", [1e-4, 1e-3, 2e-3])
def test_few_peaks_that_a_lattice_explains_are_as_close_as_matrices_say(noise):
    q, basis = peaks(np.random.default_rng(1), 60, noise)
    claimed, close = claims(q, K, basis)
    assert claimed.sum() >= 15
    assert close == pytest.approx(closeness(q[:, claimed], basis))


def test_peaks_of_others_are_deducted_where_they_are_most():
    rng = np.random.default_rng(2)
    q, basis = peaks(rng, 80, 2e-4)
    x, y = rng.uniform(-0.3, 0.3, (2, 2000))
    q = np.concatenate([q, np.array([x, y, np.sqrt(K[2] ** 2 - x**2 - y**2) - K[2]])], axis=1)
    claimed, close = claims(q, K, basis)
    assert close > 0.75
    assert claimed[:80].sum() > 2 / 3 * claimed.sum()


def test_layers_that_peaks_gather_on_are_named():
    rng = np.random.default_rng(3)
    hkl = rng.integers(-9, 10, (60, 3))
    inverse = np.linalg.inv(TARGET.basis)
    assert layers_of(inverse @ hkl.T, TARGET.basis, log_factorials(60)) == 1
    hkl[:54, 1] = 3 * rng.integers(-3, 4, 54)
    along = hkl[hkl[:, 1] != 0, 1]
    assert binom.sf((along % 3 == 0).sum() - 1, len(along), 1 / 3) < 1e-5
    assert layers_of(inverse @ hkl.T, TARGET.basis, log_factorials(60)) == 3
