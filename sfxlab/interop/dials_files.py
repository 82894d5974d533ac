"""Crystals and their reflections as DIALS reads them: experiments (.expt, JSON) and reflections (.refl, msgpack).

DIALS has the beam travel along −z, so all vectors are turned by 180° about y (METHODS.md section 1.11); lengths are
in millimetres. Layouts are those of dxtbx's experiment lists and of DIALS's reflection tables, version 1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import Crystal
from sfxlab.errors import OutputExistsError, RunError
from sfxlab.geometry import HC_EV_ANGSTROM, Detector, Panel
from sfxlab.integration import Reflections
from sfxlab.interop.usable import usable_reflections
from sfxlab.pipeline import FrameResult
from sfxlab.whole_files import written_whole

_FLIP = np.array([-1.0, 1.0, -1.0])
_MM = 1000.0
# Of DIALS's flags: predicted, indexed, integrated by summation.
_FLAGS = 1 | 4 | 256
# DIALS has no word for a detector without an upper limit.
_NO_LIMIT = 1e12
_TYPES = {
    ("i", 4, 0): "int", ("u", 8, 0): "std::size_t", ("f", 8, 0): "double", ("f", 8, 3): "vec3<double>",
    ("i", 4, 3): "cctbx::miller::index<>",
}  # fmt: skip

Vector = NDArray[np.float64]


@dataclass
class _Experiments:
    """Parts of an experiment list; beams and detectors that frames share are listed once."""

    detector_at: Callable[[float], Detector]
    experiments: list[dict[str, Any]] = field(default_factory=list)
    crystals: list[dict[str, Any]] = field(default_factory=list)
    beams: dict[float, int] = field(default_factory=dict)
    detectors: dict[float, tuple[int, Detector]] = field(default_factory=dict)

    def add(self, result: FrameResult, number: int, crystal: Crystal) -> Detector:
        """Add a crystal; its detector."""
        wavelength = HC_EV_ANGSTROM / result.photon_energy
        length = result.camera_length
        if length not in self.detectors:
            self.detectors[length] = len(self.detectors), self.detector_at(length)
        place, detector = self.detectors[length]
        self.experiments.append({
            "__id__": "Experiment", "identifier": f"{result.id} {number}",
            "beam": self.beams.setdefault(wavelength, len(self.beams)), "detector": place,
            "crystal": len(self.crystals),
        })  # fmt: skip
        self.crystals.append(_crystal(crystal))
        return detector

    def as_dictionary(self) -> dict[str, Any]:
        return {
            "__id__": "ExperimentList", "experiment": self.experiments, "imageset": [],
            "beam": [{"direction": [0.0, 0.0, 1.0], "wavelength": wavelength} for wavelength in self.beams],
            "detector": [_detector(detector) for _, detector in self.detectors.values()],
            "goniometer": [], "scan": [], "crystal": self.crystals, "profile": [], "scaling_model": [],
        }  # fmt: skip


def write_dials(
    path: str | Path,
    results: Iterable[FrameResult],
    detector_at: Callable[[float], Detector],
    *,
    overwrite: bool = False,
) -> tuple[Path, Path, int]:
    """Write X.expt and X.refl for a path X, X.expt or X.refl: both paths, and how many crystals there are.

    Every crystal is an experiment, named by frame and number. `detector_at` gives the detector at a camera length
    (metres). Saturated reflections, and those without an intensity, are left out; so are images, of which DIALS knows
    other formats.

    Raises `OutputExistsError` where one of the files exists and `overwrite` is false, `RunError` where they cannot be
    written, where a frame has no photon energy, or where there are no crystals.
    """
    path = Path(path)
    stem = path.with_suffix("") if path.suffix in (".expt", ".refl") else path
    expt, refl = (stem.with_name(stem.name + suffix) for suffix in (".expt", ".refl"))
    for target in (expt, refl):
        if target.exists() and not overwrite:
            raise OutputExistsError("this file exists", path=target, remedy="choose another name or remove it")
    experiments = _Experiments(detector_at)
    parts: list[dict[str, NDArray[Any]]] = []
    for result in results:
        if result.crystals and not result.photon_energy > 0:
            raise RunError("a frame has no photon energy", place=str(result.id), remedy="give one in the geometry")
        for number, crystal in enumerate(result.crystals):
            detector = experiments.add(result, number, crystal)
            reflections = usable_reflections(result.reflections[number])
            parts.append(_columns(reflections, detector, len(parts), HC_EV_ANGSTROM / result.photon_energy))
    if not parts:
        raise RunError("there are no crystals to write", remedy="index the run first")
    identifiers = {n: experiment["identifier"] for n, experiment in enumerate(experiments.experiments)}
    with written_whole(refl) as file:
        file.write(_packed(parts, identifiers))
    with written_whole(expt) as file:
        file.write(json.dumps(experiments.as_dictionary(), indent=1).encode())
    return expt, refl, len(parts)


def _crystal(crystal: Crystal) -> dict[str, Any]:
    rows = (crystal.real_basis * _FLIP).tolist()
    letter = crystal.cell.centring
    # With hexagonal axes the lattice is centred, with rhombohedral ones it is primitive.
    hall = {"H": "R", "R": "P"}.get(letter, letter)
    vectors = {f"real_space_{axis}": row for axis, row in zip("abc", rows, strict=True)}
    return {"__id__": "crystal", **vectors, "space_group_hall_symbol": f" {hall} 1"}


def _detector(detector: Detector) -> dict[str, Any]:
    children = [{"panel": number} for number in range(len(detector.panels))]
    axes = {"fast_axis": [1.0, 0.0, 0.0], "slow_axis": [0.0, 1.0, 0.0], "origin": [0.0, 0.0, 0.0]}
    hierarchy = {"name": "", "type": "", **axes, "children": children}
    return {"panels": [_panel(panel) for panel in detector.panels], "hierarchy": hierarchy}


def _panel(panel: Panel) -> dict[str, Any]:
    fast, slow, corner = (np.array(vector) * _FLIP for vector in (panel.fs, panel.ss, panel.corner))
    width, height = float(np.linalg.norm(fast)), float(np.linalg.norm(slow))
    return {
        "name": panel.name, "type": "SENSOR_PAD",
        "fast_axis": (fast / width).tolist(), "slow_axis": (slow / height).tolist(), "origin": (corner * _MM).tolist(),
        "raw_image_offset": [panel.column, panel.row], "image_size": [panel.columns, panel.rows],
        "pixel_size": [width * _MM, height * _MM],
        "trusted_range": [-_NO_LIMIT, panel.max_adu if math.isfinite(panel.max_adu) else _NO_LIMIT],
        "thickness": 0.0, "material": "", "mu": 0.0, "identifier": "", "mask": [],
        "gain": 1.0 if panel.adu_per_photon is None else panel.adu_per_photon, "pedestal": 0.0,
        "px_mm_strategy": {"type": "SimplePxMmStrategy"},
    }  # fmt: skip


def _columns(r: Reflections, detector: Detector, number: int, wavelength: float) -> dict[str, NDArray[Any]]:
    """The columns of a crystal, by DIALS's names."""
    n = len(r)
    panels = detector.arrays
    x = r.fs.astype(np.float64) - panels.bounds[r.panel, 2]
    y = r.ss.astype(np.float64) - panels.bounds[r.panel, 0]
    widths, heights = (np.linalg.norm(steps, axis=1) * _MM for steps in (panels.fs, panels.ss))
    ray = detector.positions(r.panel, r.fs, r.ss) * _FLIP
    return {
        "id": np.full(n, number, dtype=np.int32),
        "imageset_id": np.zeros(n, dtype=np.int32),
        "miller_index": np.stack([r.h, r.k, r.l], axis=1).astype(np.int32),
        "panel": r.panel.astype(np.uint64),
        "flags": np.full(n, _FLAGS, dtype=np.uint64),
        "intensity.sum.value": r.intensity.astype(np.float64),
        "intensity.sum.variance": r.sigma.astype(np.float64) ** 2,
        "partiality": r.partiality.astype(np.float64),
        "xyzcal.px": np.stack([x, y, np.zeros(n)], axis=1),
        "xyzcal.mm": np.stack([x * widths[r.panel], y * heights[r.panel], np.zeros(n)], axis=1),
        "s1": ray / (np.linalg.norm(ray, axis=1)[:, None] * wavelength),
        "d": 1 / np.maximum(r.resolution.astype(np.float64), np.finfo(np.float64).tiny),
    }


def _packed(parts: Sequence[dict[str, NDArray[Any]]], identifiers: dict[int, str]) -> bytes:
    data = {}
    n = 0
    for name in parts[0]:
        values = np.ascontiguousarray(np.concatenate([part[name] for part in parts]))
        n = len(values)
        kind = _TYPES[values.dtype.kind, values.dtype.itemsize, values.shape[1] if values.ndim == 2 else 0]
        data[name] = [kind, [n, values.astype(values.dtype.newbyteorder("<")).tobytes()]]
    table = {"identifiers": identifiers, "nrows": n, "data": data}
    return bytes(msgpack.packb(["dials::af::reflection_table", 1, table], use_bin_type=True))
