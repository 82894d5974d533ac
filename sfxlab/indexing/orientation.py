"""How well few peaks tell the orientation of a lattice.

Peaks lie on the Ewald sphere, their nodes up to a node's radius off it, and that is not seen. Turned a little about an
axis across the beam, nodes leave the sphere and hardly move along it. Where all peaks are near the beam, or few, a
lattice with the right indices may therefore be degrees off.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sfxlab.indexing.fit_kernels import inverse, rotated, rotation_near

FEW = 20
"""Lattices of fewer peaks get an orientation that weighs their misfits as they are spread."""
CYCLES = 5
LEAST_ALONG, LEAST_ACROSS = 2e-5, 1e-4
"""Peaks do not scatter less, 1/Å, however well few of them may fit."""


@njit(cache=True, nogil=True, error_model="numpy")
def oriented(
    q: NDArray[np.float64], k: NDArray[np.float64], basis: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float]:
    """A lattice (rows, Å) turned as its own peaks (3, n), 1/Å, suit best, and the standard error of that, radians.

    `k` is the wave vector of the beam. Few peaks are fitted with the `target` cell as it is, unless another one suits
    them far better; many leave the lattice as it is.
    """
    n = q.shape[1]
    turned, error, along = _fitted(q, k, basis)
    if n >= FEW:
        return basis, error
    rigid, rigid_error, rigid_along = _fitted(q, k, target @ rotation_near(inverse(basis) @ target).T)
    # Six more parameters have to be worth it (Schwarz 1978).
    if 4 * n * math.log(rigid_along / along) < 6 * math.log(2.0 * n):
        return rigid, rigid_error
    # Peaks hardly tell strains that look like turns.
    between = rotation_near(inverse(rigid) @ turned)
    cosine = 0.5 * (between[0, 0] + between[1, 1] + between[2, 2] - 1.0)
    return turned, math.hypot(error, math.acos(min(1.0, max(-1.0, cosine))))


@njit(cache=True, nogil=True, error_model="numpy")
def _fitted(
    q: NDArray[np.float64], k: NDArray[np.float64], basis: NDArray[np.float64]
) -> tuple[NDArray[np.float64], float, float]:
    """Least squares of the orientation, its standard error (radians), and the scatter of peaks along the sphere, 1/Å.

    Misfits along and across the Ewald sphere weigh as their own scatter says. The error is that which follows from the
    scatter or, where it is larger, from what leaving out each peak changes (jackknife).
    """
    n, basis = q.shape[1], basis.copy()
    whole = np.rint(basis @ q)
    rays = q + k.reshape(3, 1)
    rays /= np.sqrt((rays * rays).sum(axis=0))
    normals, rights = np.empty((n, 3, 3)), np.empty((n, 3))
    along, across = 1.0, 1.0
    covariance = np.zeros((3, 3))
    for cycle in range(CYCLES + 1):
        nodes = inverse(basis) @ whole
        off = nodes - q
        lift = (off * rays).sum(axis=0)
        square = (off * off).sum()
        # Of three angles one shows along the sphere, two across it.
        along = max(math.sqrt(max(square - (lift * lift).sum(), 0.0) / max(2 * n - 1, 1)), LEAST_ALONG)
        across = max(math.sqrt((lift * lift).sum() / max(n - 2, 1)), LEAST_ACROSS, along)
        _equations(nodes, off, rays, lift, along, across, normals, rights)
        covariance = inverse(normals.sum(axis=0))
        if cycle < CYCLES:
            step = covariance @ rights.sum(axis=0)
            basis = rotated(basis, step[0], step[1], step[2])
    variance = covariance[0, 0] + covariance[1, 1] + covariance[2, 2]
    normal, changed = normals.sum(axis=0), 0.0
    for j in range(n):
        change = inverse(normal - normals[j]) @ rights[j]
        changed += (change * change).sum()
    return basis, math.sqrt(max(variance, changed * (n - 1) / n)), along


@njit(cache=True, nogil=True, error_model="numpy")
def _equations(
    nodes: NDArray[np.float64],
    off: NDArray[np.float64],
    rays: NDArray[np.float64],
    lift: NDArray[np.float64],
    along: float,
    across: float,
    normals: NDArray[np.float64],
    rights: NDArray[np.float64],
) -> None:
    """Normal equations of a small turn, (n, 3, 3) and (n, 3), of each peak by itself.

    Nodes, their misfits `off` and the normals of the sphere `rays` are (3, n), `lift` (n,) the misfits across it.
    """
    turns = np.empty((3, 3))
    less = 1.0 / across**2 - 1.0 / along**2
    for j in range(nodes.shape[1]):
        x, y, z = nodes[0, j], nodes[1, j], nodes[2, j]
        # Rows: what a turn about each axis does to the node.
        turns[0, 0], turns[0, 1], turns[0, 2] = 0.0, -z, y
        turns[1, 0], turns[1, 1], turns[1, 2] = z, 0.0, -x
        turns[2, 0], turns[2, 1], turns[2, 2] = -y, x, 0.0
        for a in range(3):
            lifted, moved = 0.0, 0.0
            for i in range(3):
                lifted += turns[a, i] * rays[i, j]
                moved += turns[a, i] * off[i, j]
            rights[j, a] = -moved / along**2 - less * lifted * lift[j]
            for b in range(3):
                product, other = 0.0, 0.0
                for i in range(3):
                    product += turns[a, i] * turns[b, i]
                    other += turns[b, i] * rays[i, j]
                normals[j, a, b] = product / along**2 + less * lifted * other
