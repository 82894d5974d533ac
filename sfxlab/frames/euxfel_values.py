"""Photon energy and detector position of each train of a European XFEL run, from what its devices recorded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import GeometryError
from sfxlab.geometry import HC_EV_ANGSTROM, Geometry, Quantity

XGM = "/XGM/photon_energy"
"""What stands in a geometry file for the photon energy by the run's gas monitor. Any path but `/CONTROL/…` does."""

_CONTROL = "/CONTROL/"
_WAVELENGTH = "pulseEnergy.wavelengthUsed.value"
"""Of X-ray gas monitors, nm."""
_TOLERANCE = 0.01


def quantities_of_trains(
    geometry: Geometry, runs: Sequence[Any], trains: NDArray[np.int64], path: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Photon energy (n,) in eV, and camera length and detector shifts (n, 3) in metres, of frames of trains (n,).

    NaN where a train has no value. `runs` are EXtra-data's, asked in this order. Raises `GeometryError` where the
    geometry names something that none of them has.
    """
    wanted, frame_train = np.unique(trains, return_inverse=True)
    energies = _values(geometry.photon_energy, runs, wanted, path)
    lengths = [
        np.zeros(len(wanted)) if quantity is None else _values(quantity, runs, wanted, path)
        for quantity in (geometry.camera_length, geometry.detector_shift_x, geometry.detector_shift_y)
    ]
    return energies[frame_train], np.stack(lengths, axis=1)[frame_train]


def _values(quantity: Quantity, runs: Sequence[Any], trains: NDArray[np.int64], path: str) -> NDArray[np.float64]:
    """The quantity for each train."""
    if isinstance(quantity.value, float):
        return np.full(len(trains), quantity.convert(quantity.value))
    if quantity.value.startswith(_CONTROL):
        for run in runs:
            for source in sorted(run.control_sources, key=len, reverse=True):
                key = quantity.value.removeprefix(f"{_CONTROL}{source}/").replace("/", ".")
                if key in run.keys_for_source(source):
                    raw = _of_trains(run[source, key], trains)
                    return np.array([quantity.convert(float(value)) for value in raw])
        raise _missing(quantity, path, "a device of the run that recorded this")
    if quantity.key in ("photon_energy", "wavelength"):
        return _by_gas_monitor(quantity, runs, trains, path)
    raise _missing(quantity, path, f"a number, or {_CONTROL}DEVICE/PROPERTY/value")


def _by_gas_monitor(
    quantity: Quantity, runs: Sequence[Any], trains: NDArray[np.int64], path: str
) -> NDArray[np.float64]:
    """Photon energies by the wavelength that the gas monitors were set to."""
    found = dict(_gas_monitors(runs, trains))
    means = {name: float(np.nanmean(energies)) for name, energies in found.items()}
    if not found:
        raise _missing(quantity, path, "the number, because no gas monitor (XGM) of the run tells it")
    if max(means.values()) > (1 + _TOLERANCE) * min(means.values()):
        listed = ", ".join(f"{name} {mean:.0f} eV" for name, mean in means.items())
        raise _missing(quantity, path, f"the number, because gas monitors disagree: {listed}")
    return next(iter(found.values()))


def _gas_monitors(runs: Sequence[Any], trains: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for run in runs:
        for source in sorted(name for name in run.control_sources if "_XGM/" in name):
            if _WAVELENGTH in run.keys_for_source(source):
                wavelengths = _of_trains(run[source, _WAVELENGTH], trains)
                energies = np.full(len(trains), math.nan)
                known = wavelengths > 0
                energies[known] = HC_EV_ANGSTROM / (10 * wavelengths[known])
                if known.any():
                    yield source, energies


def _of_trains(data: Any, trains: NDArray[np.int64]) -> NDArray[np.float64]:
    """The value of a property for each train, NaN where none was recorded."""
    known, first = np.unique(np.asarray(data.train_id_coordinates(), dtype=np.int64), return_index=True)
    values = np.asarray(data.ndarray(), dtype=np.float64)[first]
    found = np.full(len(trains), math.nan)
    _, here, there = np.intersect1d(trains, known, return_indices=True)
    found[here] = values[there]
    return found


def _missing(quantity: Quantity, path: str, expected: str) -> GeometryError:
    return GeometryError(
        f"'{quantity.key}' cannot be found for this run", path=path, found=f"{quantity.key} = {quantity.value}",
        expected=expected, remedy=f"write '{quantity.key} = …' with the number into the geometry file",
    )  # fmt: skip
