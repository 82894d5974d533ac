"""What the header of an image file says of the experiment: Dectris' CBF and TIFF comments, SMV keywords."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sfxlab.errors import GeometryError, SfxlabWarning
from sfxlab.geometry import HC_EV_ANGSTROM, Geometry, Panel, PanelSource, Quantity, format_geometry, parse_geometry
from sfxlab.geometry.geometry import Flag

WAVELENGTH, DISTANCE = "/header/wavelength", "/header/distance"
BEAM_X, BEAM_Y = "/header/beam_x", "/header/beam_y"
"""Paths by which a geometry file refers to the header of an image."""

_COMMENT_KEYS = ("_array_data.header_contents", "imageDescription")
_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_DECTRIS = {
    "pixel_size": rf"Pixel_size\s+{_NUMBER}\s*m\s*x\s*{_NUMBER}\s*m",
    "beam": rf"Beam_xy\s+\(\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\)\s*pixels",
    "distance": rf"Detector_distance\s+{_NUMBER}\s*m",
    "wavelength": rf"Wavelength\s+{_NUMBER}\s*A",
    "cutoff": rf"Count_cutoff\s+{_NUMBER}",
    "two_theta": rf"Detector_2theta\s+{_NUMBER}",
}
"""Comments of Dectris' mini-CBF, lengths in metres, the beam in pixels along fs and ss."""


@dataclass(frozen=True)
class ImageHeader:
    """The geometry in a header; NaN where it does not say."""

    wavelength: float = math.nan
    """Å."""
    distance: float = math.nan
    """Metres."""
    pixel_size: tuple[float, float] = (math.nan, math.nan)
    """Along fs and ss, metres."""
    beam: tuple[float, float] = (math.nan, math.nan)
    """Where the beam meets the detector, pixels from its corner along fs and ss."""
    max_adu: float = math.inf
    two_theta: float = 0.0
    """Degrees by which the detector is swung out of the beam."""
    assumption: str = ""
    """What a reader had to take for granted, because beamlines differ in it."""

    @property
    def photon_energy(self) -> float:
        """eV."""
        return HC_EV_ANGSTROM / self.wavelength if self.wavelength > 0 else math.nan

    def value(self, path: str) -> float:
        """What a path such as `/header/distance` stands for: Å, or metres; the beam's position as a shift in x or y.

        With fs towards −x and ss towards −y a detector whose corner is at the origin is to be shifted by so much.
        """
        return {
            WAVELENGTH: self.wavelength,
            DISTANCE: self.distance,
            BEAM_X: self.beam[0] * self.pixel_size[0],
            BEAM_Y: self.beam[1] * self.pixel_size[1],
        }[path]


def read_header(header: Mapping[str, Any]) -> ImageHeader:
    """What a header, as fabio gives it, says of the experiment."""
    comment = next((str(header[key]) for key in _COMMENT_KEYS if key in header), "")
    if not comment and "Pixel_size" in header:
        # fabio has taken the comment of a Pilatus TIFF apart.
        comment = "\n".join(f"{key} {value}" for key, value in header.items())
    if comment:
        return _dectris(comment)
    return _smv(header) if "HEADER_BYTES" in header else ImageHeader()


def geometry_of_header(found: ImageHeader, shape: tuple[int, int], path: str) -> Geometry:
    """The geometry of a flat detector across the beam, as the header describes it.

    The wavelength, distance and beam centre are those of each file. Seen from the sample, rows go from left to right
    and downwards, as Dectris and ADSC detectors are mounted: fs points to −x, ss to −y (METHODS.md section 1.6).
    Negative pixels are bad: −1 and −2 in CBF.

    Raises `GeometryError` where the header does not say enough.
    """
    facts = {
        "pixel size": found.pixel_size[0], "distance": found.distance, "wavelength": found.wavelength,
        "beam centre": found.beam[0],
    }  # fmt: skip
    missing = [name for name, number in facts.items() if not math.isfinite(number)]
    missing += [name for name, number in list(facts.items())[:3] if number <= 0]
    if missing or found.two_theta:
        raise GeometryError(
            "the header of the image does not say where the detector is", path=path,
            found=f"no {', no '.join(missing)}" if missing else f"a detector swung out by {found.two_theta}°",
            expected="pixel size, distance, wavelength and beam centre of a detector across the beam",
            remedy="give a geometry file with -g FILE.geom",
        )  # fmt: skip
    if found.assumption:
        warnings.warn(f"{path}: {found.assumption}; give a geometry file if not so", SfxlabWarning, stacklevel=2)
    (dx, dy), (rows, columns) = found.pixel_size, shape
    panel = Panel(
        "p0", 0, 0, rows, columns, (0.0, 0.0, 0.0), (-dx, 0.0, 0.0), (0.0, -dy, 0.0), max_adu=found.max_adu
    )  # fmt: skip
    geometry = Geometry(
        panels=(PanelSource(panel, 1 / dx, data="/image", flags=(Flag("lessthan", 0.0),)),),
        photon_energy=Quantity("wavelength", WAVELENGTH, "A"),
        camera_length=Quantity("clen", DISTANCE, "m"),
        detector_shift_x=Quantity("detector_shift_x", BEAM_X, "m"),
        detector_shift_y=Quantity("detector_shift_y", BEAM_Y, "m"),
    )
    # Through its own text, so that a run that is opened again from its geometry.geom gets the very same.
    return parse_geometry(format_geometry(geometry))


def _dectris(comment: str) -> ImageHeader:
    found = {key: match.groups() for key, pattern in _DECTRIS.items() if (match := re.search(pattern, comment))}

    def numbers(key: str, default: float) -> tuple[float, ...]:
        return tuple(float(text) for text in found.get(key, (str(default),) * 2))

    size, beam = numbers("pixel_size", math.nan), numbers("beam", math.nan)
    return ImageHeader(
        wavelength=numbers("wavelength", math.nan)[0],
        distance=numbers("distance", math.nan)[0],
        pixel_size=(size[0], size[1]),
        beam=(beam[0], beam[1]),
        max_adu=numbers("cutoff", math.inf)[0],
        two_theta=numbers("two_theta", 0.0)[0],
    )


def _smv(header: Mapping[str, Any]) -> ImageHeader:
    """Keywords of ADSC's SMV: millimetres, and the beam centre as MOSFLM has it, x along ss and y along fs."""

    def number(key: str, default: float = math.nan) -> float:
        try:
            return float(str(header.get(key, default)).split()[0])
        except (ValueError, IndexError):
            return math.nan

    size = number("PIXEL_SIZE")
    beam = (number("BEAM_CENTER_Y") / size, number("BEAM_CENTER_X") / size) if size > 0 else (math.nan, math.nan)
    return ImageHeader(
        wavelength=number("WAVELENGTH"),
        distance=1e-3 * number("DISTANCE"),
        pixel_size=(1e-3 * size, 1e-3 * size),
        beam=beam,
        max_adu=number("CCD_IMAGE_SATURATION", math.inf),
        two_theta=number("TWOTHETA", 0.0),
        assumption="BEAM_CENTER_X is taken along the slow axis and BEAM_CENTER_Y along the fast one, as MOSFLM has them"
        if beam[0] != beam[1]
        else "",
    )
