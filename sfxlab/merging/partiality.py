"""Partiality: which share of a reflection's full intensity a still shows (METHODS.md section 7.3).

A node of radius R whose distance from the Ewald sphere is ε (the excitation error) shows the share p(ε), 1 at ε = 0:

* `sphere`: the node is a solid sphere, p = 1 − ε²/R² within |ε| < R (White 2014, Phil. Trans. R. Soc. B 369, 20130330;
  Ginn et al. 2015, Acta Cryst. D71, 1400).
* `gaussian`: the node is a Gaussian of standard deviation R, p = exp(−ε²/2R²) (Brehm et al. 2023, Acta
  Cryst. A79, 145).

The spread of photon energies, mosaicity and what is unknown of the orientation spread ε by a standard deviation s:
p is convolved with a Gaussian of that width and put to 1 at ε = 0 again, since a factor that depends on resolution
alone cannot be told from a B factor.
"""

from __future__ import annotations

import math
from typing import Literal

import numba
import numpy as np
from numpy.typing import NDArray

NodeModel = Literal["sphere", "gaussian"]
NODE_MODELS: tuple[NodeModel, ...] = ("sphere", "gaussian")

# Further out than so many s beyond the edge of a sphere, or √(R² + s²) of a Gaussian, there is nothing.
_REACH = 6.0


def partiality(
    node_model: NodeModel,
    excitation_error: NDArray[np.float64],
    radius: NDArray[np.float64],
    spread: NDArray[np.float64],
) -> NDArray[np.float64]:
    """p for ε, R and s, all in 1/Å and of one shape."""
    out = np.empty(np.shape(excitation_error))
    _partialities(
        NODE_MODELS.index(node_model), np.ravel(excitation_error), np.ravel(radius), np.ravel(spread), out.reshape(-1)
    )
    return out


@numba.njit(cache=True, nogil=True)
def _partialities(node_model, excitation_error, radius, spread, out):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] = profile(node_model, excitation_error[i], radius[i], spread[i] ** 2)[0]


@numba.njit(cache=True, nogil=True, inline="always")
def _bell(x):  # type: ignore[no-untyped-def]
    return math.exp(-0.5 * x * x) * 0.3989422804014327


@numba.njit(cache=True, nogil=True)
def profile(node_model, error, radius, variance):  # type: ignore[no-untyped-def]
    """p and its derivatives by ε, ln R and s², for ε = `error`, R = `radius`, s² = `variance`.

    `node_model` is the place in `NODE_MODELS`.
    """
    if node_model == 1:
        width = radius * radius + variance
        z = error * error / width
        if z > _REACH * _REACH:
            return 0.0, 0.0, 0.0, 0.0
        p = math.exp(-0.5 * z)
        return p, -p * error / width, p * z * radius * radius / width, 0.5 * p * z / width
    s = max(math.sqrt(variance), 0.02 * radius)
    if abs(error) > radius + _REACH * s:
        return 0.0, 0.0, 0.0, 0.0
    # The integrals of φ, xφ and x²φ over −R < ε + x < R, φ normal of width s; far inside these are 1, 0 and s².
    a, b = (-radius - error) / s, (radius - error) / s
    bell_a, bell_b, m0 = 0.0, 0.0, 1.0
    if a > -_REACH or b < _REACH:
        bell_a, bell_b = _bell(a), _bell(b)
        m0 = 0.5 * (math.erf(b * 0.7071067811865476) - math.erf(a * 0.7071067811865476))
    m1 = s * (bell_a - bell_b)
    m2 = s * s * (m0 + a * bell_a - b * bell_b)
    square = radius * radius
    moment = (error * error * m0 + 2.0 * error * m1 + m2) / square
    value = m0 - moment
    by_error = -2.0 * (error * m0 + m1) / square
    by_variance = -m0 / square + (bell_a + bell_b) / (radius * s)
    # The same at ε = 0.
    t = radius / s
    inside, bell = 1.0, 0.0
    if t < _REACH:
        inside, bell = math.erf(t * 0.7071067811865476), _bell(t)
    moment_0 = (inside - 2.0 * t * bell) / (t * t)
    value_0 = inside - moment_0
    by_variance_0 = -inside / square + 2.0 * bell / (radius * s)
    p = value / value_0
    return (
        p,
        by_error / value_0,
        2.0 * (moment - p * moment_0) / value_0,
        (by_variance - p * by_variance_0) / value_0,
    )
