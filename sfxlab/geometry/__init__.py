"""Detectors: where each pixel is and which to trust."""

from sfxlab.geometry.crystfel import parse_geometry, read_geometry
from sfxlab.geometry.crystfel_format import format_geometry, write_geometry
from sfxlab.geometry.detector import HC_EV_ANGSTROM, Detector, Panel, PanelArrays
from sfxlab.geometry.extra_geom import from_extra_geom
from sfxlab.geometry.geometry import Geometry, PanelSource, Quantity

__all__ = [
    "HC_EV_ANGSTROM",
    "Detector",
    "Geometry",
    "Panel",
    "PanelArrays",
    "PanelSource",
    "Quantity",
    "format_geometry",
    "from_extra_geom",
    "parse_geometry",
    "read_geometry",
    "write_geometry",
]
