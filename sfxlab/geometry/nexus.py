"""Detector geometry that a NeXus file of the application definition NXmx carries (Eiger, JUNGFRAU).

METHODS.md section 1.6 and https://manual.nexusformat.org/classes/applications/NXmx.html. NeXus' axes (McStas) are
those of the laboratory frame here, and the origin is the sample.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import h5py
import numpy as np
from numpy.typing import NDArray

from sfxlab.errors import GeometryError, SfxlabWarning
from sfxlab.geometry.crystfel import parse_geometry
from sfxlab.geometry.crystfel_format import format_geometry
from sfxlab.geometry.detector import Panel
from sfxlab.geometry.geometry import Dims, Flag, Geometry, MaskSource, PanelSource, Quantity, stack_blocks
from sfxlab.geometry.nexus_transformations import (
    LENGTHS,
    chain_from,
    dataset_of,
    error,
    next_axis,
    number_of,
    offset_of,
    placed_by,
    text_of,
    unit_of,
    vector_of,
)

_NUMBERED = re.compile(r"data_\d+")
_WAVELENGTH_UNITS = {"angstrom": "A", "angstroms": "A", "ångström": "A", "å": "A", "a": "A", "m": "m"}
_ENERGY_UNITS = {"ev": "eV", "kev": "keV"}
_ANY_BIT = 0xFFFFFFFF
_MOST_MASKS = 8


def is_nexus_mx(file: h5py.File) -> bool:
    """Whether a file says where its detector is in the way of NXmx, or of Eigers from before it."""
    try:
        return _detector_group(_entry(file)) is not None
    except GeometryError:
        return False


def read_nexus_geometry(file: h5py.File, dataset: Callable[[str], h5py.Dataset]) -> Geometry:
    """The geometry that an NXmx master carries; its `text` is that of an equivalent geometry file.

    `dataset` gives a dataset by its path, also one that only links `data_000001`… stand for (`OpenFile.dataset`).
    Raises `GeometryError` or `InputError` naming the file and the HDF5 path where something is missing or makes no
    sense. Warns (`SfxlabWarning`) where the beam centre has to stand for an orientation that is not given.
    """
    entry = _entry(file)
    detector = _detector_group(entry)
    if detector is None:
        raise error(entry, "there is no NXdetector with modules or a beam centre")
    array = _image_array(entry, detector, dataset)
    modules = _in_front(detector, _modules(detector, array))
    camera_length = round(sum(m.corner[2] for m in modules) / len(modules), 9)
    if camera_length < 1e-4:
        raise error(
            detector, "the detector is not at a distance from the sample", f"{camera_length:g} m", "more than 0.1 mm"
        )
    masks, flags, max_adu = _masks(detector, array), _flags(detector, array), _saturation(detector)
    panels = [
        PanelSource(
            Panel(
                m.name, 0, 0, m.rows, m.columns, (m.corner[0], m.corner[1], m.corner[2] - camera_length), m.fs, m.ss,
                m.origin[-1], m.origin[-2], max_adu=max_adu,
            ),
            1 / math.hypot(*m.fs), array.path, array.dims(m.origin), masks, flags,
        )
        for m in modules
    ]  # fmt: skip
    geometry = Geometry(stack_blocks(panels), _photon_energy(entry, detector), Quantity("clen", camera_length, "m"))
    # Through the text, so that a run that keeps it as its geometry file is continued with the very same numbers.
    return parse_geometry(format_geometry(geometry), file.filename)


def numbered_data(group: h5py.Group, name: str = "data") -> list[str]:
    """Names of the datasets `data_000001`, `data_000002`… of a group that stand for one dataset `data`, in order."""
    if name != "data":
        return []
    return sorted((link for link in group if _NUMBERED.fullmatch(link)), key=lambda link: (len(link), link))


def _entry(file: h5py.File) -> h5py.Group:
    entries = list(_groups(file, "NXentry", "entry"))
    for entry in entries:
        definition = dataset_of(entry, "definition")
        if definition is not None and text_of(definition[()]) == "NXmx":
            return entry
    if not entries:
        raise error(file["/"], "there is no NXentry")
    return entries[0]


def _groups(parent: h5py.Group, nx_class: str, name: str) -> Iterator[h5py.Group]:
    """Groups of a class, or of the class's usual name where the file does not say any class."""
    for key in parent:
        if parent.get(key, getclass=True, getlink=True) is h5py.ExternalLink:
            continue
        group = parent.get(key)
        if isinstance(group, h5py.Group):
            said = text_of(group.attrs.get("NX_class"))
            if said == nx_class or (said is None and key == name):
                yield group


def _detector_group(entry: h5py.Group) -> h5py.Group | None:
    """The detector with modules, or at least with a beam centre."""
    detectors = [d for i in _groups(entry, "NXinstrument", "instrument") for d in _groups(i, "NXdetector", "detector")]
    usable = [d for d in detectors if next(_groups(d, "NXdetector_module", "module"), None) is not None]
    usable = usable or [d for d in detectors if dataset_of(d, "beam_center_x") is not None]
    if len(usable) > 1:
        others = ", ".join(str(d.name) for d in usable[1:])
        _warn(usable[0], f"the file has other detectors too, which are left aside: {others}")
    return usable[0] if usable else None


def _warn(node: h5py.Group | h5py.Dataset, message: str) -> None:
    warnings.warn(f"{node.file.filename}, {node.name}: {message}", SfxlabWarning, stacklevel=2)


@dataclass(frozen=True)
class _Module:
    name: str
    origin: tuple[int, ...]
    """Index of its first pixel along the axes of the array other than the frames', slowest first."""
    rows: int
    columns: int
    corner: tuple[float, float, float]
    fs: tuple[float, float, float]
    ss: tuple[float, float, float]


@dataclass(frozen=True)
class _ImageArray:
    """Where the pixels are."""

    path: str
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    channel: str | None = None
    """Name of the first of several channels, which have an axis of their own after the frames'."""

    def dims(self, origin: tuple[int, ...]) -> Dims:
        """Axes of the data array for a module."""
        if len(self.shape) == 2:
            return "ss", "fs"
        return "%", *(origin[:-2] or (0,) * (len(self.shape) - 3)), "ss", "fs"


def _image_array(entry: h5py.Group, detector: h5py.Group, dataset: Callable[[str], h5py.Dataset]) -> _ImageArray:
    """The array of images: a dataset, or links `data_000001`… that stand for one."""
    for group in (*_groups(entry, "NXdata", "data"), detector):
        name = text_of(group.attrs.get("signal")) or "data"
        name = "data" if _NUMBERED.fullmatch(name) else name
        if name not in set(group) and not numbered_data(group, name):
            continue
        images = dataset(f"{group.name}/{name}")
        if images.ndim >= 2:
            return _ImageArray(f"{group.name}/{name}", images.shape, images.dtype, _first_channel(group, images))
    raise error(entry, "there are no images", expected="data/data, or data/data_000001 and so on")


def _first_channel(group: h5py.Group, images: h5py.Dataset) -> str | None:
    """The first of the channels (thresholds of an Eiger 2) that images have an axis for."""
    names = dataset_of(group, "channel")
    if images.ndim != 4 or names is None:
        return None
    channels = [text_of(name) or "" for name in np.asarray(names[()]).reshape(-1)]
    if len(channels) > 1:
        _warn(images, f"only the first channel is read, {channels[0]}, not {', '.join(channels[1:])}")
    return channels[0] if channels else None


def _modules(detector: h5py.Group, array: _ImageArray) -> list[_Module]:
    """The modules in the order of the array."""
    groups = list(_groups(detector, "NXdetector_module", "module"))
    if not any(dataset_of(group, "fast_pixel_direction") is not None for group in groups):
        return [_module_by_beam_centre(detector, array)]
    return sorted((_module(detector, group, array) for group in groups), key=lambda m: m.origin)


def _module(detector: h5py.Group, group: h5py.Group, array: _ImageArray) -> _Module:
    origin, (rows, columns) = _extent(group, array)
    fast, slow = _required(group, "fast_pixel_direction"), _required(group, "slow_pixel_direction")
    placed = _placed(detector, fast)
    _check_offsets(group, fast, slow)
    corner = placed[:3, :3] @ offset_of(fast) + placed[:3, 3]
    fs = placed[:3, :3] @ _pixel_step(fast)
    ss = _placed(detector, slow)[:3, :3] @ _pixel_step(slow)
    if np.linalg.norm(np.cross(fs, ss)) < 1e-6 * np.linalg.norm(fs) * np.linalg.norm(ss):
        raise error(group, "fast and slow pixel direction are parallel")
    name = re.sub(r"[^\w.-]", "_", str(group.name).rsplit("/", 1)[-1])
    name = f"module_{name}" if name.startswith(("bad", "group", "rigid_group")) else name
    return _Module(name, origin, rows, columns, _vector(corner), _vector(fs), _vector(ss))


def _vector(values: NDArray[np.float64]) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    return x, y, z


def _required(group: h5py.Group, name: str) -> h5py.Dataset:
    dataset = dataset_of(group, name)
    if dataset is None:
        raise error(group, f"'{name}' is missing", ", ".join(group), f"a dataset {group.name}/{name}")
    return dataset


def _placed(detector: h5py.Group, direction: h5py.Dataset) -> NDArray[np.float64]:
    """What puts a pixel direction in the laboratory: its own chain, or else the detector's."""
    return placed_by(chain_from(next_axis(direction) or next_axis(detector)))


def _check_offsets(group: h5py.Group, fast: h5py.Dataset, slow: h5py.Dataset) -> None:
    """Refuse two different first pixels; warn of a module offset that nothing depends on."""
    if offset_of(slow).any() and not np.allclose(offset_of(slow), offset_of(fast), atol=1e-9, rtol=0):
        raise error(slow, "the offsets of fast and slow pixel direction differ")
    module_offset = dataset_of(group, "module_offset")
    if module_offset is None or module_offset in chain_from(fast):
        return
    if np.abs(placed_by([module_offset])[:3, 3]).max() > 1e-9:
        _warn(module_offset, "fast_pixel_direction does not depend on this offset, so it is left aside")


def _pixel_step(direction: h5py.Dataset) -> NDArray[np.float64]:
    vector = vector_of(direction)
    length = np.linalg.norm(vector)
    size = number_of(direction) * unit_of(direction, LENGTHS)
    if not length or not size > 0:
        raise error(direction, "this is no pixel", f"{size:g} m along {vector}", "a size above 0 and a direction")
    return np.asarray(vector * (size / length))


def _extent(group: h5py.Group, array: _ImageArray) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Origin of a module in the array, and its rows and columns."""
    origin, size = (_indices(group, name) for name in ("data_origin", "data_size"))
    stride = dataset_of(group, "data_stride")
    if stride is not None and (np.asarray(stride[()]) != 1).any():
        raise error(stride, "only neighbouring pixels can make a module", stride[()], "1 along each axis")
    whole = array.shape[-len(origin) :]
    if len(origin) != len(size) or not 2 <= len(origin) <= 3 or len(whole) != len(origin) or min(origin) < 0:
        raise error(group, "data_origin and data_size do not fit the images", f"{origin} and {size}", str(array.shape))
    if size != whole and size == (*whole[:-2], whole[-1], whole[-2]):
        # Some versions of Dectris' file writer give them as (fast, slow).
        size = whole
    inside = all(n >= 1 and first + n <= n_whole for first, n, n_whole in zip(origin, size, whole, strict=True))
    if not inside or size[:-2] not in ((), (1,)):
        raise error(
            group, "the module is outside the images", f"origin {origin}, size {size}", f"inside {whole}, slowest first"
        )
    return origin, (size[-2], size[-1])


def _indices(group: h5py.Group, name: str) -> tuple[int, ...]:
    dataset = _required(group, name)
    if dataset.dtype.kind not in "iu":
        raise error(dataset, "these are no whole numbers", dataset.dtype)
    return tuple(int(i) for i in np.asarray(dataset[()]).reshape(-1))


def _module_by_beam_centre(detector: h5py.Group, array: _ImageArray) -> _Module:
    """The whole array as one module across the beam, the way Eigers are mounted: fs to −x, ss to −y."""
    x, y = (number_of(_required(detector, f"beam_center_{axis}")) for axis in "xy")
    sizes = [_required(detector, f"{axis}_pixel_size") for axis in "xy"]
    width, height = (number_of(size) * (unit_of(size, LENGTHS) if "units" in size.attrs else 1.0) for size in sizes)
    distance = dataset_of(detector, "detector_distance") or _required(detector, "distance")
    length = abs(number_of(distance)) * (unit_of(distance, LENGTHS) if "units" in distance.attrs else 1.0)
    if not width > 0 or not height > 0:
        raise error(detector, "the pixel size is none", f"{width:g} × {height:g} m", "more than 0")
    _warn(
        detector,
        f"the file does not say how the detector is mounted; upright is assumed, with the beam at fs {x:g}, "
        f"ss {y:g} and {length:g} m from the sample",
    )
    rows, columns = array.shape[-2:]
    corner = (x * width, y * height, length)
    return _Module("module", (0, 0), rows, columns, corner, (-width, 0.0, 0.0), (0.0, -height, 0.0))


def _in_front(detector: h5py.Group, modules: list[_Module]) -> list[_Module]:
    """The modules, mirrored behind the sample where the file has all of them before it, as early Eigers do."""
    if not all(m.corner[2] < 0 for m in modules):
        return modules
    flat = all(abs(m.fs[2]) < 1e-9 and abs(m.ss[2]) < 1e-9 for m in modules)
    if not flat:
        raise error(detector, "the detector is between source and sample", f"z = {modules[0].corner[2]:g} m", "z > 0")
    _warn(detector, "the distance has the wrong sign; the detector is taken to be behind the sample")
    return [replace(m, corner=(m.corner[0], m.corner[1], -m.corner[2])) for m in modules]


def _masks(detector: h5py.Group, array: _ImageArray) -> tuple[MaskSource, ...]:
    """`pixel_mask`, `pixel_mask_2`…: any bit means a bad pixel."""
    paths = [name for name in detector if re.fullmatch(r"pixel_mask(_\d+)?", name)]
    older = f"{array.channel}_channel/pixel_mask", "detectorSpecific/pixel_mask"
    paths = paths or [path for path in older if dataset_of(detector, path) is not None][:1]
    return tuple(
        MaskSource(n, f"{detector.name}/{path}", bad_bits=_ANY_BIT) for n, path in enumerate(paths[:_MOST_MASKS])
    )


def _flags(detector: h5py.Group, array: _ImageArray) -> tuple[Flag, ...]:
    """Values that stand for no measurement: the largest of an integer type, of a signed one also the smallest."""
    flags = set()
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)  # type: ignore[type-var]
        flags.add(Flag("equal", float(limits.max)))
        depth = dataset_of(detector, "bit_depth_image")
        bits = int(number_of(depth)) if depth is not None else limits.bits
        if array.dtype.kind == "u" and 8 <= bits < limits.bits:
            flags.add(Flag("equal", float(2**bits - 1)))
        if limits.min < 0:
            flags.add(Flag("equal", float(limits.min)))
    underload = _finite(detector, "underload_value")
    if underload.size:
        flags.add(Flag("lessthan", float(underload.max())))
    return tuple(sorted(flags))


def _saturation(detector: h5py.Group) -> float:
    for path in ("saturation_value", "detectorSpecific/countrate_correction_count_cutoff"):
        values = _finite(detector, path)
        if (values > 0).any():
            return float(values[values > 0].min())
    return math.inf


def _finite(group: h5py.Group, path: str) -> NDArray[np.float64]:
    """The finite numbers of a dataset that need not be there."""
    dataset = dataset_of(group, path)
    if dataset is None or dataset.dtype.kind not in "iuf" or not dataset.size:
        return np.empty(0)
    values = np.asarray(dataset[()], dtype=np.float64).reshape(-1)
    return values[np.isfinite(values)]


def _photon_energy(entry: h5py.Group, detector: h5py.Group) -> Quantity:
    """The path of the wavelength or the energy of the beam."""
    owners = [*_groups(entry, "NXinstrument", "instrument"), *_groups(entry, "NXsample", "sample"), entry]
    beams = [beam for owner in owners for beam in _groups(owner, "NXbeam", "beam")]
    for beam in beams:
        if (wavelength := dataset_of(beam, "incident_wavelength")) is not None:
            return _beam_quantity(wavelength, "wavelength", _WAVELENGTH_UNITS, "A")
        if (energy := dataset_of(beam, "incident_energy")) is not None:
            return _beam_quantity(energy, "photon_energy", _ENERGY_UNITS, "eV")
    if (energy := dataset_of(detector, "detectorSpecific/photon_energy")) is not None:
        return _beam_quantity(energy, "photon_energy", _ENERGY_UNITS, "eV")
    raise error(
        entry, "the wavelength is missing", ", ".join(str(b.name) for b in beams) or "no NXbeam",
        "incident_wavelength or incident_energy in instrument/beam",
    )  # fmt: skip


def _beam_quantity(dataset: h5py.Dataset, key: str, units: dict[str, str], usual: str) -> Quantity:
    unit = text_of(dataset.attrs.get("units"))
    known = usual if unit is None else units.get(unit.lower())
    if known is None:
        raise error(dataset, "the unit is unknown", unit, ", ".join(units))
    if f"{str(dataset.name).rsplit('/', 1)[-1]}_weights" in dataset.parent:
        raise error(dataset, "a spectrum is no photon energy", "weights beside it", "one value, or one for each frame")
    if dataset.size == 1 and not number_of(dataset) > 0:
        raise error(dataset, f"the {key.replace('_', ' ')} is not set", number_of(dataset), "more than 0")
    return Quantity(key, str(dataset.name), known)
