"""Structure factor amplitudes of merged intensities by French & Wilson (1978), as reciprocalspaceship has them."""

from __future__ import annotations

from importlib.util import find_spec

import gemmi
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import MergeError

_LEAST_IN_BIN, _MOST_BINS = 50, 100


def amplitudes(
    hkl: NDArray[np.int32],
    intensity: NDArray[np.float64],
    sigma: NDArray[np.float64],
    cell: gemmi.UnitCell,
    space_group: str,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """F and σ(F), (n,) each, in the rows of `hkl`, (n, 3); NaN where the intensity is not known.

    Raises `MergeError` where reciprocalspaceship is not installed.
    """
    if find_spec("reciprocalspaceship") is None:
        raise MergeError(
            "amplitudes need the package reciprocalspaceship, which is not installed",
            remedy="pip install 'sfxlab[amplitudes]', or leave --amplitudes out",
        )
    import reciprocalspaceship as rs
    from reciprocalspaceship.algorithms import scale_merged_intensities

    known = np.flatnonzero(np.isfinite(intensity) & np.isfinite(sigma) & (sigma > 0))
    f, sigma_f = np.full(len(hkl), np.nan), np.full(len(hkl), np.nan)
    if not len(known):
        return f, sigma_f
    columns = {name: hkl[known, i] for i, name in enumerate("HKL")}
    table = rs.DataSet(
        {**columns, "I": intensity[known], "SIGI": sigma[known]}, cell=cell, spacegroup=space_group, merged=True
    ).infer_mtz_dtypes()
    scaled = scale_merged_intensities(
        table.set_index(["H", "K", "L"]), "I", "SIGI", output_columns=["FW-I", "FW-SIGI", "F", "SIGF"],
        bins=int(np.clip(len(known) // _LEAST_IN_BIN, 1, _MOST_BINS)),
        # The mean of a shell without signal may be below 0, and a prior of Wilson's kind has to be above it.
        minimum_sigma=0.1 * float(np.median(sigma[known])),
    )  # fmt: skip
    f[known], sigma_f[known] = scaled["F"].to_numpy(float), scaled["SIGF"].to_numpy(float)
    return f, sigma_f
