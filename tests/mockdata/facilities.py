"""Small HDF5 files in the layouts of LCLS, SwissFEL, SACLA and PAL-XFEL, each with its geometry file and its truth.

Every writer returns the file, the text of a geometry file for it, and what each frame has to be read as. Modules have
fewer pixels than real ones; paths, axes, data types, units, masks and compression are those of the facilities.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Exposure:
    """One frame as it has to be read."""

    event: str
    data: NDArray[Any]
    bad: NDArray[np.bool_]
    photon_energy: float
    camera_length: float


Written = tuple[Path, str, list[Exposure]]


def panels(names: list[str], rows: int, columns: int, per_row: int = 1, extra: str = "") -> str:
    """Lines of a geometry file for equal panels that fill an array, `per_row` of them beside one another."""
    lines = []
    for number, name in enumerate(names):
        row, column = divmod(number, per_row)
        values = {
            "min_fs": column * columns, "max_fs": (column + 1) * columns - 1,
            "min_ss": row * rows, "max_ss": (row + 1) * rows - 1,
            "corner_x": (column - 1) * (columns + 2), "corner_y": (row - 2) * (rows + 2), "fs": "+1.0x", "ss": "+1.0y",
        }  # fmt: skip
        lines += [f"{name}/{key} = {value}" for key, value in values.items()]
        lines += [f"{name}/{line}" for line in extra.splitlines()]
    return "\n".join(lines) + "\n"


def write_cspad(folder: Path, frames: int = 3) -> Written:
    """LCLS: CSPAD as Cheetah writes it: CXI, 8 × 8 ASICs, one mask for all frames, encoder in mm."""
    rng = np.random.default_rng(1)
    asic = (5, 4)
    data = rng.integers(-20, 3000, (frames, 8 * asic[0], 8 * asic[1])).astype(np.int16)
    mask = np.where(rng.random(data.shape[1:]) < 0.1, rng.choice([1, 2, 128, 512], data.shape[1:]), 0).astype(np.uint16)
    energies, encoder = 9480 + rng.normal(0, 20, frames), np.full(frames, -450.0015)
    path = folder / "r0042-cspad.cxi"
    with h5py.File(path, "w") as file:
        file["cxi_version"] = 140
        detector = file.create_group("/entry_1/instrument_1/detector_1")
        detector.create_dataset("data", data=data, chunks=(1, *data.shape[1:]), compression="gzip", shuffle=True)
        detector["mask_shared"] = mask
        detector["distance"], detector["x_pixel_size"] = np.full(frames, 0.14), 1.1e-4
        detector["experiment_identifier"] = [f"LCLS_2014_May10_r0042_{n:06d}_f91" for n in range(frames)]
        file["/entry_1/data_1"] = h5py.SoftLink("/entry_1/instrument_1/detector_1")
        file["/LCLS/photon_energy_eV"], file["/LCLS/detector_1/EncoderValue"] = energies, encoder
        file["/LCLS/photon_energy_eV"].attrs["numEvents"] = frames
        file["/LCLS/machineTime"] = np.arange(frames, dtype=np.int32)
    names = [f"q{quadrant}a{number}" for quadrant in range(4) for number in range(16)]
    geometry = f"""; CSPAD
photon_energy = /LCLS/photon_energy_eV eV
clen = /LCLS/detector_1/EncoderValue mm
coffset = 0.5901
res = 9097.5
adu_per_eV = 0.0038
data = /entry_1/data_1/data
dim0 = %
dim1 = ss
dim2 = fs
mask = /entry_1/data_1/mask_shared
mask_good = 0x0000
mask_bad = 0xffff
{panels(names, *asic, per_row=8)}"""
    length = 1e-3 * encoder[0] + 0.5901
    return path, geometry, [
        Exposure(f"//{n}", data[n], mask > 0, energies[n], length) for n in range(frames)
    ]  # fmt: skip


def add_cheetah_peaks(path: Path, peaks: list[list[tuple[float, float, float]]], per_frame: int = 8) -> None:
    """Add Cheetah's `result_1` to a CXI file: pixel numbers from 0, rows filled up with zeros; SNR and maximum too."""
    with h5py.File(path, "r+") as file:
        group = file.create_group("/entry_1/result_1")
        group["nPeaks"] = np.array([len(found) for found in peaks])
        columns = np.zeros((3, len(peaks), per_frame), dtype=np.float32)
        for row, found in enumerate(peaks):
            columns[:, row, : len(found)] = np.array(found).reshape(-1, 3).T
        for name, values in zip(("peakXPosRaw", "peakYPosRaw", "peakTotalIntensity"), columns, strict=True):
            group[name] = values
        group["peakSNR"], group["peakMaximumValue"] = columns[2] / 10, columns[2] / 2
        group["peakNPixels"] = np.where(columns[2] > 0, 4.0, 0.0).astype(np.float32)


def write_epix(folder: Path, frames: int = 3) -> Written:
    """LCLS: ePix10k 2M as psocake writes it: 16 panels of 4 ASICs above one another, a mask for each frame."""
    rng = np.random.default_rng(2)
    panel = (8, 6)
    data = rng.normal(10, 4, (frames, 16 * panel[0], panel[1])).astype(np.float32)
    mask = (rng.random(data.shape) < 0.9).astype(np.uint8)
    data[1, 3, 2] = np.nan
    energies = 9500 + rng.normal(0, 30, frames)
    path = folder / "mfxp1-r0017_0.cxi"
    with h5py.File(path, "w") as file:
        file["/LCLS/photon_energy_eV"] = energies
        file["/LCLS/detector_1/EncoderValue"] = np.full(frames, -480.0)
        chunks = {"chunks": (1, *data.shape[1:])}
        file.create_dataset("/entry_1/data_1/data", data=data, **chunks)
        file.create_dataset("/entry_1/data_1/mask", data=mask, compression="gzip", **chunks)
        file["/entry_1/instrument_1"] = h5py.SoftLink("/entry_1/data_1")
    geometry = f"""photon_energy = /LCLS/photon_energy_eV
clen = /LCLS/detector_1/EncoderValue
coffset = 0.58
res = 10000
adu_per_photon = 36
data = /entry_1/data_1/data
dim0 = %
dim1 = ss
dim2 = fs
mask0_data = /entry_1/data_1/mask
mask0_goodbits = 1
{panels([f"p{p}a{a}" for p in range(16) for a in range(4)], panel[0] // 2, panel[1] // 2, per_row=2)}"""
    return path, geometry, [
        Exposure(f"//{n}", data[n], (mask[n] == 0) | np.isnan(data[n]), energies[n], 0.1) for n in range(frames)
    ]  # fmt: skip


def write_two_detectors(folder: Path, frames: int = 3) -> Written:
    """CXI with two detectors of different size and type, each with masks of its own for each frame."""
    rng = np.random.default_rng(3)
    front = rng.integers(0, 65535, (frames, 12, 10)).astype(np.uint16)
    back = rng.normal(5, 2, (frames, 6, 7)).astype(np.float32)
    masks = [(rng.random(data.shape) < 0.2).astype(np.uint32) * 4 for data in (front, back)]
    path = folder / "two.cxi"
    with h5py.File(path, "w") as file:
        for number, (data, mask) in enumerate(zip((front, back), masks, strict=True), start=1):
            detector = file.create_group(f"/entry_1/instrument_1/detector_{number}")
            detector["data"], detector["mask"] = data, mask
            file[f"/entry_1/data_{number}"] = h5py.SoftLink(detector.name)
        file["/entry_1/instrument_1/source_1/energy"] = np.array([7000.0, 7100.0, 7200.0])[:frames]
    shared = """photon_energy = /entry_1/instrument_1/source_1/energy eV
clen = 0.08
res = 13333.3
dim0 = %
dim1 = ss
dim2 = fs
"""
    geometry = (
        shared
        + "data = /entry_1/data_1/data\nmask0_data = /entry_1/data_1/mask\nmask0_badbits = 4\n"
        + panels(["front0", "front1"], 6, 10)
        + "data = /entry_1/data_2/data\nmask0_data = /entry_1/data_2/mask\n"
        + panels(["back"], 6, 7, extra="coffset = 0.5")
    )
    exposures = []
    for n in range(frames):
        slab, bad = np.zeros((18, 10)), np.ones((18, 10), dtype=bool)
        slab[:12], bad[:12] = front[n], masks[0][n] > 0
        slab[12:, :7], bad[12:, :7] = back[n], masks[1][n] > 0
        length = 0.08 + 0.5 / 3
        exposures.append(Exposure(f"//{n}", slab.astype(np.float32), bad, 7000.0 + 100 * n, length))
    return path, geometry, exposures


def write_scans(folder: Path) -> Written:
    """CXI with a group for each position of a scan and several frames in each: `%` in paths and in dims."""
    rng = np.random.default_rng(4)
    path = folder / "scan.cxi"
    exposures = []
    with h5py.File(path, "w") as file:
        for entry, frames in (("entry_1", 2), ("entry_2", 3)):
            for position in ("left", "right"):
                data = rng.integers(0, 999, (frames, 2, 4, 5)).astype(np.int32)
                mask = (rng.random((frames, 2, 4, 5)) < 0.3).astype(np.uint8)
                energy = rng.normal(9, 0.1, (frames, 1))
                group = file.create_group(f"/{entry}/{position}")
                group["data"], group["mask"], group["energy"] = data, mask, energy
                exposures += [
                    Exposure(f"{entry}/{position}//{n}", data[n].reshape(8, 5), mask[n].reshape(8, 5) > 0,
                             1e3 * energy[n, 0], 0.1)
                    for n in range(frames)
                ]  # fmt: skip
    geometry = """photon_energy = /%/%/energy keV
clen = 100 mm
res = 10000
data = /%/%/data
mask0_data = /%/%/mask
mask0_badbits = 1
dim0 = %
dim1 = 0
dim2 = ss
dim3 = fs
""" + panels(["m0"], 4, 5)
    return path, geometry + "dim1 = 1\n" + panels(["m1"], 4, 5), exposures


def write_swissfel(folder: Path, frames: int = 4) -> Written:
    """SwissFEL: JUNGFRAU modules with gaps between their chips, bitshuffle-LZ4, the mask (1: good) in another file."""
    rng = np.random.default_rng(5)
    data = rng.poisson(3, (frames, 8 * 6, 10)).astype(np.float32)
    good = (rng.random(data.shape[1:]) < 0.95).astype(np.uint8)
    path = folder / "run_000047.JF06T08V04.h5"
    with h5py.File(path, "w") as file:
        detector = file.create_group("/data/JF06T08V04")
        detector.create_dataset("data", data=data, chunks=(1, *data.shape[1:]), **hdf5plugin.Bitshuffle(cname="lz4"))
        detector["pulse_id"] = np.arange(frames, dtype=np.uint64)[:, None] + 14_000_000_000
        detector["is_good_frame"] = np.ones((frames, 1), dtype=np.uint8)
        detector["daq_rec"] = np.zeros((frames, 1), dtype=np.int64)
        detector["frame_index"] = np.arange(frames, dtype=np.int64)[:, None]
    with h5py.File(folder / "JF06T08V04.mask.h5", "w") as file:
        file["mask"] = good
    geometry = f"""photon_energy = 4570 eV
clen = 95.3 mm
res = 13333.3
adu_per_photon = 1
data = /data/JF06T08V04/data
dim0 = %
dim1 = ss
dim2 = fs
mask_file = {folder / "JF06T08V04.mask.h5"}
mask = /mask
mask_good = 1
mask_bad = 0
{panels([f"m{n}" for n in range(8)], 6, 10)}"""
    return path, geometry, [Exposure(f"//{n}", data[n], good == 0, 4570.0, 0.0953) for n in range(frames)]


def write_sacla(folder: Path, frames: int = 4) -> Written:
    """SACLA: MPCCD as Cheetah writes it, a group and a photon energy for each tag, one mask."""
    rng = np.random.default_rng(6)
    shape = (8 * 4, 5)
    mask = (rng.random(shape) < 0.1).astype(np.uint8)
    path = folder / "run259782-0.h5"
    exposures = []
    with h5py.File(path, "w") as file:
        metadata = file.create_group("metadata")
        metadata["pixelmask"], metadata["pixelsize_in_um"] = mask, 50.0
        metadata["distance_in_mm"], metadata["run"] = 51.5, 259782
        # Tags are not written in order, and HDF5 lists groups by name.
        for number in rng.permutation(frames):
            name = f"tag-{447317100 + 2 * number}"
            data = rng.integers(0, 65535, shape).astype(np.uint16)
            file.create_dataset(f"{name}/data", data=data, compression="gzip", shuffle=True)
            file[f"{name}/photon_energy_ev"] = energy = 10000.0 + 10 * number
            file[f"{name}/photon_wavelength_A"] = 12398.4198 / energy
            exposures.append(Exposure(f"{name}//", data, mask > 0, energy, 0.0515))
    geometry = f"""photon_energy = /%/photon_energy_ev eV
clen = /metadata/distance_in_mm mm
res = 20000
adu_per_photon = 10
data = /%/data
dim0 = ss
dim1 = fs
mask = /metadata/pixelmask
mask_good = 0x00
mask_bad = 0xff
{panels([f"q{n}" for n in range(1, 9)], 4, 5)}"""
    return path, geometry, sorted(exposures, key=lambda exposure: exposure.event)


def write_sacla_runs(folder: Path) -> Written:
    """SACLA: as DataConvert writes it, `/run_…/detector_2d_1/tag_…/detector_data`, several runs in a file."""
    rng = np.random.default_rng(7)
    path = folder / "converted.h5"
    exposures = []
    with h5py.File(path, "w") as file:
        file["file_info/version"] = 2
        for run in (259782, 259783):
            for tag in range(447317100, 447317106, 2):
                group = file.create_group(f"run_{run}/detector_2d_1/tag_{tag}")
                group["detector_data"] = data = rng.normal(0, 5, (16, 5)).astype(np.float32)
                group["photon_energy"] = energy = rng.normal(10, 0.05)
                exposures.append(Exposure(f"run_{run}/tag_{tag}//", data, np.zeros_like(data, bool), 1e3 * energy, 0.1))
    geometry = f"""photon_energy = /%/detector_2d_1/%/photon_energy keV
clen = 0.1
res = 20000
data = /%/detector_2d_1/%/detector_data
{panels(["a", "b"], 8, 5)}"""
    return path, geometry, exposures


def write_pal(folder: Path, frames: int = 3) -> Written:
    """PAL-XFEL: Rayonix MX225-HS, `/R…/scan_dat/raymx_data`, wavelengths in Å, distance in mm, dead pixels 65535."""
    rng = np.random.default_rng(8)
    data = rng.integers(0, 2000, (frames, 20, 20)).astype(np.uint16)
    data[:, 4, 5] = 65535
    wavelengths = rng.normal(1.28, 0.001, frames)
    path = folder / "R0017.h5"
    with h5py.File(path, "w") as file:
        file["/R0017/header/detector_0_distance"] = 117.5
        scan = file.create_group("/R0017/scan_dat")
        scan["N"] = np.arange(frames)
        scan.create_dataset("raymx_data", data=data, chunks=(1, 20, 20), compression="gzip")
        scan["raymx_header"] = np.zeros((frames, 16), dtype=np.uint8)
        scan["photon_wavelength"] = wavelengths
    geometry = f"""wavelength = /%/scan_dat/photon_wavelength A
clen = /%/header/detector_0_distance mm
res = 5688.9
adu_per_photon = 1
flag_equal = 65535
data = /%/scan_dat/raymx_data
dim0 = %
dim1 = ss
dim2 = fs
{panels(["p0"], 20, 20)}"""
    return path, geometry, [
        Exposure(f"R0017//{n}", data[n], data[n] == 65535, 12398.4198 / wavelengths[n], 0.1175) for n in range(frames)
    ]  # fmt: skip
