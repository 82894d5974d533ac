"""Runs of European XFEL as EXtra-data's own example writer makes them, with pixels, masks and photon energies."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from extra_data.tests.mockdata import write_file
from extra_data.tests.mockdata.detectors import AGIPDModule, LPDModule
from extra_data.tests.mockdata.jungfrau import JUNGFRAUModule
from extra_data.tests.mockdata.motor import Motor
from extra_data.tests.mockdata.xgm import XGM
from numpy.typing import NDArray

FIRST_TRAIN = 10000


@dataclass(frozen=True)
class Kind:
    """How a detector's modules are written."""

    file: str
    writer: Any
    device: str
    n_modules: int
    first: int
    data: str
    mask: str


class JungfrauOfFewCells(JUNGFRAUModule):
    """A module with as many memory cells as it is said to have pulses, not always 16."""

    def __init__(self, device_id: str, frames_per_train: int, raw: bool) -> None:
        super().__init__(device_id, raw=raw)
        self.cells = frames_per_train

    @property
    def instrument_keys(self) -> list[tuple[str, str, tuple[int, ...]]]:
        return [(key, dtype, (self.cells, *shape[1:])) for key, dtype, shape in super().instrument_keys]


_XTDF = ("xtdf/image/data", "xtdf/image/mask")
_DAQ = ("daqOutput/data/adc", "daqOutput/data/mask")
KINDS = {
    "AGIPD1M": Kind("AGIPD", AGIPDModule, "SPB_DET_AGIPD1M-1/DET/{}CH0", 16, 0, *_XTDF),
    "LPD1M": Kind("LPD", LPDModule, "FXE_DET_LPD1M-1/DET/{}CH0", 16, 0, *_XTDF),
    "JUNGFRAU4M": Kind("JNGFR", JungfrauOfFewCells, "SPB_IRDA_JF4M/DET/JNGFR{:02}", 8, 1, *_DAQ),
}


@dataclass(frozen=True)
class Pulse:
    """One frame as it has to be read: of each module its pixels and mask, None where it is missing."""

    train: int
    pulse: int
    modules: list[tuple[NDArray[np.float32], NDArray[np.uint32]] | None]


def write_run(
    folder: Path, kind: str, trains: int = 2, pulses: int = 2, missing: Collection[int] = (), raw: bool = False
) -> list[Pulse]:
    """Write a run without the modules `missing` (counted from 0); its frames.

    Few rows of each module have data, so that the files stay small; the rest are 0, as HDF5 does not store them.
    """
    detector = KINDS[kind]
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(kind))
    found: dict[int, tuple[NDArray[np.float32], NDArray[np.uint32]]] = {}
    for index in set(range(detector.n_modules)) - set(missing):
        number = index + detector.first
        path = folder / f"{'RAW' if raw else 'CORR'}-R0034-{detector.file}{number:02}-S00000.h5"
        module = detector.writer(detector.device.format(number), frames_per_train=pulses, raw=raw)
        write_file(str(path), [module], ntrains=trains, chunksize=trains, format_version="1.2")
        with h5py.File(path, "r+") as file:
            where = f"INSTRUMENT/{detector.device.format(number)}:"
            data = file[where + detector.data]
            pixels = np.zeros(data.shape[:-2] + (5, data.shape[-1]), dtype=data.dtype)
            pixels[...] = (rng.normal(100, 30, pixels.shape) + 1000 * index).astype(data.dtype)
            data[..., -5:, :] = pixels
            if not raw:
                flags = np.where(rng.random(pixels.shape) < 0.1, rng.integers(1, 2**20, pixels.shape), 0)
                file[where + detector.mask][..., -5:, :] = flags
                found[index] = (data[()], file[where + detector.mask][()])
            else:
                found[index] = (data[()], np.zeros(data.shape, np.uint32))
    return _pulses(found, detector, trains)


def _pulses(found: dict[int, tuple[Any, Any]], detector: Kind, trains: int) -> list[Pulse]:
    data = next(iter(found.values()))[0]
    per_train = data.shape[1] if detector.first else len(data) // trains
    return [
        Pulse(
            FIRST_TRAIN + train,
            pulse,
            [
                None if index not in found
                else tuple(a[train, pulse] if detector.first else a[train * per_train + pulse] for a in found[index])
                for index in range(detector.n_modules)
            ],
        )
        for train in range(trains)
        for pulse in range(per_train)
    ]  # fmt: skip


def write_devices(folder: Path, wavelengths: NDArray[np.float64], z: NDArray[np.float64] | None = None) -> None:
    """Write what a gas monitor and a motor recorded: wavelength (nm) and detector position (mm) of each train."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "RAW-R0034-DA01-S00000.h5"
    devices = [XGM("SPB_XTD9_XGM/XGM/DOOCS"), Motor("SPB_IRU_AGIPD1M/MOTOR/Z_STEPPER")]
    write_file(str(path), devices, ntrains=len(wavelengths), chunksize=len(wavelengths), format_version="1.2")
    with h5py.File(path, "r+") as file:
        file["CONTROL/SPB_XTD9_XGM/XGM/DOOCS/pulseEnergy/wavelengthUsed/value"][: len(wavelengths)] = wavelengths
        if z is not None:
            file["CONTROL/SPB_IRU_AGIPD1M/MOTOR/Z_STEPPER/actualPosition/value"][: len(z)] = z
