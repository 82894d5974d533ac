"""Correction for the polarisation of the beam (METHODS.md section 1.1)."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import MergeError


@dataclass(frozen=True)
class Polarisation:
    """How the beam is polarised."""

    angle: float
    """Direction of the electric field, degrees clockwise from the horizontal, looking along the beam."""
    fraction: float
    """Share of the intensity that is polarised along `angle`; the rest is polarised at right angles to it."""

    @property
    def direction(self) -> tuple[float, float]:
        """x and y of the electric field in the laboratory frame."""
        # Looking along the beam +x points left, so a clockwise turn goes from +x towards +y.
        return math.cos(math.radians(self.angle)), math.sin(math.radians(self.angle))


def parse_polarisation(text: str | None) -> Polarisation | None:
    """`horiz`, `vert`, `<angle>deg<percent>` as CrystFEL writes them; None or `none` for no correction.

    `horiz60` means 60 % horizontal. 50 % is an unpolarised beam, which is corrected for, too.
    Raises `MergeError` for anything else.
    """
    if text is None or text == "none":
        return None
    match = re.fullmatch(r"(?:(horiz|vert)|([-+]?\d+(?:\.\d*)?)deg)(\d+(?:\.\d*)?)?", text)
    percent = float(match[3]) if match and match[3] else 100.0
    if match is None or percent > 100:
        raise MergeError(
            "unknown polarisation",
            found=text,
            expected="horiz, vert, none, or an angle and a percentage as in 10deg98",
        )
    angle = {"horiz": 0.0, "vert": 90.0}.get(match[1] or "")
    return Polarisation(float(match[2]) if angle is None else angle, percent / 100)


def polarisation_factors(
    crystal: NDArray[np.integer],
    hkl: NDArray[np.integer],
    basis: NDArray[np.float64],
    wavenumber: NDArray[np.float64],
    polarisation: Polarisation,
) -> NDArray[np.float64]:
    """What polarisation left of each intensity, (n,), 0 to 1: divide by it.

    `crystal` (n,) numbers the rows of `basis` (m, 3, 3; columns a*, b*, c* in 1/Å) and `wavenumber` (m,; 1/Å).
    """
    x, y = polarisation.direction
    return np.asarray(_factors(crystal, hkl, basis, wavenumber, x, y, polarisation.fraction))


@numba.njit(cache=True, nogil=True)
def _factors(crystal, hkl, basis, wavenumber, x, y, fraction):  # type: ignore[no-untyped-def]
    """P = f (1 − (û·ŝ)²) + (1 − f) (1 − (v̂·ŝ)²), û = (x, y, 0), v̂ = ẑ × û, ŝ along basis @ hkl + k ẑ.

    Arguments as for `polarisation_factors`; returns P, (n,).
    """
    out = np.empty(len(crystal))
    for i in range(len(crystal)):
        a, k = basis[crystal[i]], wavenumber[crystal[i]]
        h0, h1, h2 = hkl[i, 0], hkl[i, 1], hkl[i, 2]
        sx = a[0, 0] * h0 + a[0, 1] * h1 + a[0, 2] * h2
        sy = a[1, 0] * h0 + a[1, 1] * h1 + a[1, 2] * h2
        sz = a[2, 0] * h0 + a[2, 1] * h1 + a[2, 2] * h2 + k
        square = sx * sx + sy * sy + sz * sz
        along, across = (x * sx + y * sy) ** 2 / square, (x * sy - y * sx) ** 2 / square
        out[i] = fraction * (1 - along) + (1 - fraction) * (1 - across)
    return out
