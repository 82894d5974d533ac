"""Small NXmx files as Dectris' file writer (Eiger) and the JUNGFRAU detectors of SwissFEL and PSI write them.

https://manual.nexusformat.org/classes/applications/NXmx.html and, for Eiger,
https://github.com/dectris/documentation/tree/main/filewriter_v2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import hdf5plugin
import numpy as np
from numpy.typing import NDArray

COMPRESSIONS: Mapping[str, Mapping[str, Any]] = {
    "bitshuffle-lz4": hdf5plugin.Bitshuffle(cname="lz4"),
    "lz4": hdf5plugin.LZ4(),
    "gzip": {"compression": "gzip", "shuffle": True},
    "blosc": hdf5plugin.Blosc(cname="zstd", shuffle=hdf5plugin.Blosc.SHUFFLE),
    "none": {},
}
INSTRUMENT = "/entry/instrument"
DETECTOR = f"{INSTRUMENT}/detector"
TRANSFORMATIONS = f"{DETECTOR}/transformations"


@dataclass(frozen=True)
class Axis:
    """One translation or rotation."""

    name: str
    value: float | Sequence[float]
    vector: Sequence[float]
    kind: str | None = "translation"
    units: str | None = "m"
    depends_on: str = "."
    offset: Sequence[float] | None = None
    offset_units: str | None = None


@dataclass(frozen=True)
class Module:
    """One NXdetector_module."""

    name: str
    origin: Sequence[int]
    size: Sequence[int]
    fast: Sequence[float]
    slow: Sequence[float]
    depends_on: str | None
    pixel_size: Sequence[float] = (75e-6, 75e-6)
    """Along fast and slow, metres."""
    axes: Sequence[Axis] = ()
    """Such as `module_offset`, kept in the module's own group."""


def eiger(
    shape: tuple[int, int], beam_center: tuple[float, float] = (10.25, 20.5), distance: float = 0.12
) -> tuple[list[Module], list[Axis]]:
    """An Eiger as Dectris mounts it: one module, fast to −x and slow to −y, `beam_center` in pixels (fast, slow)."""
    corner = np.array([beam_center[0] * 75e-6, beam_center[1] * 75e-6, distance])
    length = float(np.linalg.norm(corner))
    translation = Axis("translation", length, tuple(corner / length), offset=(0.0, 0.0, 0.0))
    module = Module(
        "module", (0, 0), shape, (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), f"{TRANSFORMATIONS}/translation",
        axes=(Axis("module_offset", 0.0, (0.0, 0.0, 0.0), depends_on=f"{TRANSFORMATIONS}/translation"),),
    )  # fmt: skip
    return [module], [translation]


def jungfrau(
    n_modules: int = 3, module_shape: tuple[int, int] = (16, 32), distance: float = 0.1, stacked: bool = True
) -> tuple[list[Module], list[Axis]]:
    """Modules with tilts of their own on a tilted quadrant on a rail, lengths in mm, angles in degrees and radians.

    Their data are one below the other where `stacked`, else along an axis of the array before the slow one.
    """
    rows, columns = module_shape
    axes = [
        Axis("AXIS_RAIL", 1e3 * distance, (0.0, 0.0, 1.0), units="mm"),
        Axis("AXIS_D0", 0.3, (0.6, 0.8, 0.0), "rotation", "deg", f"{TRANSFORMATIONS}/AXIS_RAIL"),
        Axis(
            "AXIS_D0Q0", 0.02, (0.0, 0.0, -1.0), "rotation", "rad", f"{TRANSFORMATIONS}/AXIS_D0", (1.5, -2.25, 0.5),
            "mm",
        ),
    ]  # fmt: skip
    modules = []
    for number in range(n_modules):
        name = f"AXIS_D0Q0M{number}"
        offset = (0.4 - 0.1 * number, 3.0 * number - 2.0, 0.05 * number)
        vector = np.array([0.1, -0.2, 1.0 + number])
        axes.append(
            Axis(name, 1.5 * number - 1, tuple(vector / np.linalg.norm(vector)), "rotation", "degrees",
                 f"{TRANSFORMATIONS}/AXIS_D0Q0", offset, "mm")
        )  # fmt: skip
        origin = (number * rows, 0) if stacked else (number, 0, 0)
        size = module_shape if stacked else (1, *module_shape)
        module = Module(
            f"ARRAY_D0Q0M{number}", origin, size, (-1.0, 0.0, 0.0), (0.0, -1.0, 0.0), "module_offset",
            axes=(
                Axis("module_offset", 0.0, (0.0, 0.0, 0.0), depends_on=f"{TRANSFORMATIONS}/{name}",
                     offset=(columns * 0.0375, rows * 0.0375, 0.0), offset_units="mm"),
            ),
        )  # fmt: skip
        modules.append(module)
    return modules, axes


def modules_of(detector: Any) -> tuple[list[Module], list[Axis]]:
    """The modules of an `sfxlab.geometry.Detector`, each hung on an offset of its own."""
    modules = []
    for panel in detector.panels:
        corner, fs, ss = (np.array(v) for v in (panel.corner, panel.fs, panel.ss))
        sizes = float(np.linalg.norm(fs)), float(np.linalg.norm(ss))
        length = float(np.linalg.norm(corner))
        offset = Axis("module_offset", length, tuple(corner / length))
        modules.append(
            Module(
                f"ARRAY_{panel.name}", (panel.row, panel.column), (panel.rows, panel.columns), tuple(fs / sizes[0]),
                tuple(ss / sizes[1]), "module_offset", sizes, (offset,),
            )
        )  # fmt: skip
    return modules, []


def write_master(
    folder: Path,
    frames: NDArray[Any],
    modules: Sequence[Module],
    axes: Sequence[Axis],
    *,
    name: str = "series_1",
    layout: str = "links",
    frames_per_file: int = 3,
    compression: str = "bitshuffle-lz4",
    wavelength: Any = 1.25,
    wavelength_units: str | None = "angstrom",
    energy: Any = None,
    detector: Mapping[str, Any] | None = None,
) -> Path:
    """Write `name_master.h5` and its data files; return the master.

    `layout` is `links` (data_000001…), `virtual` (one virtual data set), or `single` (all in the master). `detector`
    has more datasets of the detector: `pixel_mask`, `saturation_value`, `bit_depth_image`…
    """
    folder.mkdir(parents=True, exist_ok=True)
    master = folder / f"{name}_master.h5"
    with h5py.File(master, "w") as file:
        _group(file, "/entry", "NXentry").attrs["default"] = "data"
        file["/entry/definition"] = np.bytes_("NXmx")
        _group(file, INSTRUMENT, "NXinstrument")
        _group(file, "/entry/sample", "NXsample")["name"] = np.bytes_("crystals")
        _write_beam(file, wavelength, wavelength_units, energy)
        _write_detector(file, modules, axes, detector or {})
        _write_images(file, folder, name, frames, layout, frames_per_file, COMPRESSIONS[compression])
    return master


def write_old_eiger(folder: Path, frames: NDArray[Any], *, name: str = "old", distance: float = 0.15) -> Path:
    """A master as the first Eigers wrote it: no definition, no modules, only the beam centre and the distance."""
    master = write_master(folder, frames, *eiger(frames.shape[-2:]), name=name)
    with h5py.File(master, "r+") as file:
        del file["/entry/definition"], file[f"{DETECTOR}/module"], file[TRANSFORMATIONS]
        group = file[DETECTOR]
        group["detector_distance"] = np.float32(distance)
        group["detector_distance"].attrs["units"] = np.bytes_("m")
        for axis, value in zip("xy", (12.5, 30.25), strict=True):
            group[f"beam_center_{axis}"] = np.float32(value)
            group[f"beam_center_{axis}"].attrs["units"] = np.bytes_("pixel")
            group[f"{axis}_pixel_size"] = np.float32(75e-6)
            group[f"{axis}_pixel_size"].attrs["units"] = np.bytes_("m")
        specific = _group(file, f"{DETECTOR}/detectorSpecific", "NXcollection")
        specific["countrate_correction_count_cutoff"] = np.uint32(12440)
        specific["pixel_mask"] = np.zeros(frames.shape[-2:], np.uint32)
        specific["pixel_mask"][1, 2] = 1
    return master


def write_axis(group: h5py.Group, axis: Axis) -> None:
    """Write a transformation as a dataset with attributes."""
    dataset = group.create_dataset(axis.name, data=np.asarray(axis.value, dtype=np.float64))
    dataset.attrs["vector"] = np.asarray(axis.vector, dtype=np.float64)
    dataset.attrs["depends_on"] = np.bytes_(axis.depends_on)
    texts = {"transformation_type": axis.kind, "units": axis.units, "offset_units": axis.offset_units}
    for key, text in texts.items():
        if text is not None:
            dataset.attrs[key] = np.bytes_(text)
    if axis.offset is not None:
        dataset.attrs["offset"] = np.asarray(axis.offset, dtype=np.float64)


def _group(file: h5py.File, path: str, nx_class: str) -> h5py.Group:
    group = file.require_group(path)
    group.attrs["NX_class"] = np.bytes_(nx_class)
    return group


def _write_beam(file: h5py.File, wavelength: Any, units: str | None, energy: Any) -> None:
    beam = _group(file, f"{INSTRUMENT}/beam", "NXbeam")
    for name, value, unit in (("incident_wavelength", wavelength, units), ("incident_energy", energy, "eV")):
        if value is not None:
            beam[name] = np.asarray(value, dtype=np.float64)
            if unit is not None:
                beam[name].attrs["units"] = np.bytes_(unit)


def _write_detector(file: h5py.File, modules: Sequence[Module], axes: Sequence[Axis], extra: Mapping[str, Any]) -> None:
    detector = _group(file, DETECTOR, "NXdetector")
    detector["description"] = np.bytes_("Dectris EIGER2 Si 16M")
    detector["sensor_material"] = np.bytes_("Si")
    detector["sensor_thickness"] = 4.5e-4
    detector["sensor_thickness"].attrs["units"] = np.bytes_("m")
    for key, value in extra.items():
        detector[key] = value
    transformations = _group(file, TRANSFORMATIONS, "NXtransformations")
    for axis in axes:
        write_axis(transformations, axis)
    for module in modules:
        group = _group(file, f"{DETECTOR}/{module.name}", "NXdetector_module")
        group["data_origin"] = np.array(module.origin, dtype=np.int32)
        group["data_size"] = np.array(module.size, dtype=np.int32)
        for axis in module.axes:
            write_axis(group, axis)
        sizes = zip(("fast", "slow"), (module.fast, module.slow), module.pixel_size, strict=True)
        for name, vector, size in sizes:
            write_axis(group, Axis(f"{name}_pixel_direction", size, vector, depends_on=module.depends_on or "."))
            if module.depends_on is None:
                del group[f"{name}_pixel_direction"].attrs["depends_on"]


def _write_images(
    file: h5py.File, folder: Path, name: str, frames: NDArray[Any], layout: str, per_file: int,
    compression: Mapping[str, Any],
) -> None:  # fmt: skip
    data = _group(file, "/entry/data", "NXdata")
    data.attrs["signal"] = np.bytes_("data" if layout != "links" else "data_000001")
    chunks = (1,) * (frames.ndim - 2) + frames.shape[-2:]
    if layout == "single":
        data.create_dataset("data", data=frames, chunks=chunks, **compression)
        return
    virtual = h5py.VirtualLayout(frames.shape, frames.dtype)
    for number, first in enumerate(range(0, len(frames), per_file), start=1):
        part = frames[first : first + per_file]
        target = f"{name}_data_{number:06d}.h5"
        with h5py.File(folder / target, "w") as data_file:
            _group(data_file, "/entry", "NXentry")
            _group(data_file, "/entry/data", "NXdata")
            images = data_file.create_dataset("/entry/data/data", data=part, chunks=chunks, **compression)
            images.attrs["image_nr_low"], images.attrs["image_nr_high"] = first + 1, first + len(part)
        if layout == "links":
            data[f"data_{number:06d}"] = h5py.ExternalLink(target, "/entry/data/data")
        virtual[first : first + len(part)] = h5py.VirtualSource(target, "/entry/data/data", part.shape)
    if layout == "virtual":
        data.create_virtual_dataset("data", virtual, fillvalue=0)
