"""A simulated data set on disk: frames (CXI), geometry, cell, and the truth beside them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

from sfxlab.geometry import Detector, Geometry, PanelSource, Quantity, write_geometry
from sfxlab.geometry.geometry import MaskSource
from sfxlab.simulation.drawing import TruePeaks
from sfxlab.simulation.instrument import Instrument
from sfxlab.simulation.scene import Exposure, TrueCrystal
from sfxlab.simulation.structure_factors import Intensities

_JOULE_PER_EV = 1.602176634e-19
_DATA, _MASK = "/entry_1/data_1/data", "/entry_1/data_1/mask"
_PHOTON_ENERGY = "/LCLS/photon_energy_eV"
_SOURCE_ENERGY = "/entry_1/instrument_1/source_1/energy"
_IDENTIFIER = "/entry_1/experiment_identifier"

PeakRow = tuple[object, ...]
"""A row of `true_peaks.csv.gz`."""

_PEAK_COLUMNS = (
    "frame", "panel", "fs", "ss", "photons_5x5", "peak_pixel_photons", "background_per_px", "masked",
)  # fmt: skip


def geometry_of(detector: Detector, bandwidth: float) -> Geometry:
    """What a geometry file has to say about the frames that `write_frames` writes."""
    camera_length = detector.camera_length
    mask = MaskSource(0, _MASK, bad_bits=0xFFFF)
    panels = tuple(
        PanelSource(
            replace(p, corner=(*p.corner[:2], p.corner[2] - camera_length), file_fs=p.column, file_ss=p.row),
            round(1 / p.pixel_size, 6), _DATA, ("%", "ss", "fs"), (mask,),
        )
        for p in detector.panels
    )  # fmt: skip
    energy = Quantity("photon_energy", _PHOTON_ENERGY, "eV")
    return Geometry(panels, energy, Quantity("clen", camera_length, "m"), bandwidth=bandwidth)


def write_frames(
    path: Path,
    exposures: Iterable[Exposure],
    n_frames: int,
    instrument: Instrument,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[list[dict[str, Any]], list[PeakRow]]:
    """Write a CXI file, one frame per chunk; return the entries of `truth.json` and the rows of `true_peaks.csv.gz`."""
    truths: list[dict[str, Any]] = []
    peaks: list[PeakRow] = []
    with h5py.File(path, "w") as file:
        _create_datasets(file, n_frames, instrument)
        for index, exposure in enumerate(exposures):
            file[_DATA][index] = exposure.data
            file[_PHOTON_ENERGY][index] = exposure.beam.photon_energy
            file[_SOURCE_ENERGY][index] = exposure.beam.photon_energy * _JOULE_PER_EV
            file[_IDENTIFIER][index] = _event_id(index).encode()
            truths.append(_frame_truth(index, exposure))
            peaks += _peak_rows(index, exposure.peaks, exposure.background_at_peaks, instrument.mask)
            if progress is not None:
                progress(index + 1, n_frames)
    return truths, peaks


def _create_datasets(file: h5py.File, n_frames: int, instrument: Instrument) -> None:
    slow, fast = instrument.detector.shape
    file["cxi_version"] = 160
    data = file.create_dataset(
        _DATA, (n_frames, slow, fast), instrument.dtype, chunks=(1, slow, fast),
        **hdf5plugin.Bitshuffle(cname="lz4"),
    )  # fmt: skip
    data.attrs["axes"] = "experiment_identifier:y:x"
    file.create_dataset(_MASK, data=instrument.mask, chunks=True, compression="gzip")
    file.create_dataset(_PHOTON_ENERGY, (n_frames,), np.float64)
    file.create_dataset(_SOURCE_ENERGY, (n_frames,), np.float64).attrs["units"] = "J"
    file.create_dataset(_IDENTIFIER, (n_frames,), "S24")
    detector = file.create_group("/entry_1/instrument_1/detector_1")
    detector["distance"] = instrument.nominal.camera_length
    for key in ("x_pixel_size", "y_pixel_size"):
        detector[key] = instrument.nominal.panels[0].pixel_size


def _event_id(index: int) -> str:
    """The name of a simulated frame."""
    return f"simulated-{index:06d}"


def _frame_truth(index: int, exposure: Exposure) -> dict[str, Any]:
    """The entry of a frame in `truth.json`."""
    return {
        "frame": index,
        "event_id": _event_id(index),
        "is_hit": bool(exposure.crystals),
        "n_crystals": len(exposure.crystals),
        "kind": exposure.kind,
        "photon_energy_eV": exposure.beam.photon_energy,
        "mean_background_photons": round(exposure.mean_background, 4),
        "crystals": [_crystal_truth(crystal) for crystal in exposure.crystals],
    }


def _crystal_truth(crystal: TrueCrystal) -> dict[str, Any]:
    astar, bstar, cstar = (10 * crystal.lattice.basis.T).tolist()  # 1/nm
    photons = crystal.spots.photons * crystal.scale * crystal.spots.fraction_in_5x5()
    return {
        "astar": astar,
        "bstar": bstar,
        "cstar": cstar,
        "cell_A_deg": [round(value, 6) for value in crystal.cell.parameters],
        "ncells": list(crystal.n_cells),
        "quaternion_wxyz": list(crystal.quaternion),
        "scale": crystal.scale,
        "node_radius_per_A": crystal.lattice.node_radius,
        "n_spots_over_40_photons": int(np.sum(photons > 40)),
        "n_spots_over_15_photons": int(np.sum(photons > 15)),
    }


def _peak_rows(
    index: int, peaks: TruePeaks, background: NDArray[np.float64], mask: NDArray[np.uint16]
) -> list[PeakRow]:
    """The rows of a frame in `true_peaks.csv.gz`."""
    masked = mask[peaks.row, peaks.column] != 0
    columns = (peaks.panel, peaks.fs, peaks.ss, peaks.photons, peaks.highest, background, masked)
    return [
        (index, panel, f"{fs:.3f}", f"{ss:.3f}", f"{photons:.2f}", f"{highest:.3f}", f"{level:.4f}", int(bad))
        for panel, fs, ss, photons, highest, level, bad in zip(*columns, strict=True)
    ]


def write_truth(
    folder: Path,
    header: dict[str, Any],
    frames: list[dict[str, Any]],
    peaks: list[PeakRow],
    intensities: Intensities,
    instrument: Instrument,
    bandwidth: float,
) -> None:
    """Write all that the frames were made from into `folder`, which must exist."""
    (folder / "truth.json").write_text(json.dumps({**header, "frames": frames}), encoding="utf-8")
    with _gzip_text(folder / "true_peaks.csv.gz") as text:
        table = csv.writer(text, lineterminator="\n")
        table.writerow(_PEAK_COLUMNS)
        table.writerows(peaks)
    with _gzip_text(folder / "true.hkl.gz") as text:
        text.writelines(_reflection_list(intensities))
    with h5py.File(folder / "full_mask.h5", "w") as file:
        file.create_dataset("mask", data=instrument.full_mask, chunks=True, compression="gzip")
    write_geometry(geometry_of(instrument.detector, bandwidth), folder / "true.geom")
    with (folder / "unmasked_hot_pixels.csv").open("w", encoding="utf-8", newline="") as text:
        text.write("fs,ss,mean_counts\n")
        for pixel, mean in zip(instrument.hot, instrument.hot_mean, strict=True):
            ss, fs = np.unravel_index(pixel, instrument.detector.shape)
            if instrument.mask[ss, fs] == 0:
                text.write(f"{fs},{ss},{mean:.1f}\n")


def _reflection_list(intensities: Intensities) -> Iterator[str]:
    yield "CrystFEL reflection list version 2.0\n"
    yield f"Symmetry: {intensities.point_group}\n"
    yield "   h    k    l          I    phase   sigma(I)   nmeas\n"
    for (h, k, l), value in zip(intensities.hkl, intensities.intensity, strict=True):  # noqa: E741
        # There is no error on a true value; programs that reject sigma 0 get that of a count.
        sigma = max(1.0, math.sqrt(value))
        yield f"{h:4d} {k:4d} {l:4d} {value:10.2f}        - {sigma:10.2f} {1:7d}\n"
    yield "End of reflections\n"


@contextmanager
def _gzip_text(path: Path) -> Iterator[io.TextIOWrapper]:
    """A gzip file for text that holds no time stamp and no name, so that equal content gives equal files."""
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", fileobj=raw, mode="wb", compresslevel=6, mtime=0) as compressed,
        io.TextIOWrapper(compressed, encoding="utf-8", newline="") as text,
    ):
        yield text
