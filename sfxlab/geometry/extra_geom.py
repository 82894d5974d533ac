"""Geometries of European XFEL's detectors, from EXtra-geom."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from sfxlab.errors import GeometryError
from sfxlab.geometry.crystfel import parse_geometry
from sfxlab.geometry.crystfel_format import format_geometry
from sfxlab.geometry.geometry import Geometry, Group

_ALL_BITS = 0xFFFFFFFF
_XGM = "/XGM/photon_energy"


def from_extra_geom(
    geom: Any,
    camera_length: float | str,
    photon_energy: float | str = _XGM,
    *,
    data: str = "/entry_1/instrument_1/detector_1/data",
    mask: str | None = "/entry_1/instrument_1/detector_1/mask",
    adu_per_ev: float | None = None,
) -> Geometry:
    """The geometry that an EXtra-geom object describes, for run directories and virtual CXI files alike.

    Parameters
    ----------
    geom:
        An `AGIPD_1MGeometry`, `LPD_1MGeometry`, `JUNGFRAUGeometry`…
    camera_length, photon_energy:
        Metres and eV; or paths with a unit as geometry files have them. By default the photon energy of a run directory
        is what its gas monitor was set to; a virtual CXI file needs the number.
    data, mask:
        HDF5 paths in virtual CXI files; any bit that is set in the mask is bad.

    Raises `GeometryError` where EXtra-geom is not installed or cannot write the geometry.
    """
    try:
        from extra_geom.base import DetectorGeometryBase
    except ImportError:
        raise GeometryError("geometries of EXtra-geom need EXtra-geom", remedy="pip install 'sfxlab[euxfel]'") from None
    if not isinstance(geom, DetectorGeometryBase):
        raise GeometryError(
            "this is no EXtra-geom geometry", found=type(geom).__name__, expected="an object such as AGIPD_1MGeometry"
        )
    text = _crystfel_text(geom, camera_length, photon_energy, data, mask, adu_per_ev)
    geometry = parse_geometry(text)
    panels = tuple(
        replace(source, masks=tuple(replace(m, bad_bits=_ALL_BITS) for m in source.masks)) for source in geometry.panels
    )
    geometry = replace(geometry, panels=panels, groups=_groups(geometry, geom.n_quads))
    return parse_geometry(format_geometry(geometry))


def _crystfel_text(
    geom: Any,
    camera_length: float | str,
    photon_energy: float | str,
    data: str,
    mask: str | None,
    adu_per_ev: float | None,
) -> str:
    """EXtra-geom's own translation, without the rigid groups that CrystFEL no longer has."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "geometry.geom"
        # A copy, because EXtra-geom notes the file's name in the object.
        geom.offset((0, 0, 0)).write_crystfel_geom(
            str(path), data_path=data, mask_path=mask, adu_per_ev=adu_per_ev, clen=camera_length,
            photon_energy=photon_energy, nquads=0,
        )  # fmt: skip
        lines = path.read_text().splitlines()
    return "\n".join(line for line in lines if not line.startswith("rigid_group"))


def _groups(geometry: Geometry, n_quadrants: int) -> tuple[Group, ...]:
    """Tiles in modules, modules in quadrants where the detector has them, and all of it."""
    modules: dict[str, list[str]] = {}
    for source in geometry.panels:
        modules.setdefault(source.panel.name.partition("a")[0], []).append(source.panel.name)
    groups = [Group(name, tuple(tiles)) for name, tiles in modules.items()]
    top = list(modules)
    if n_quadrants > 1 and len(modules) % n_quadrants == 0:
        size = len(modules) // n_quadrants
        quadrants = [Group(f"q{n}", tuple(top[n * size : (n + 1) * size])) for n in range(n_quadrants)]
        groups, top = groups + quadrants, [quadrant.name for quadrant in quadrants]
    return (*groups, Group("all", tuple(top)))
