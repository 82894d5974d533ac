"""CrystFEL streams in (METHODS.md section 1.8): format 2.3 and the older 2.x dialects, plain or gzipped."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import fields as fields_of
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfxlab.crystal import CENTRINGS, LATTICE_TYPES, Crystal, UnitCell
from sfxlab.crystal.cell_file import parse_cell
from sfxlab.errors import CellError, GeometryError, SfxlabWarning, StreamError
from sfxlab.frames import FrameId
from sfxlab.geometry import HC_EV_ANGSTROM, Detector
from sfxlab.geometry.crystfel import parse_geometry
from sfxlab.geometry.geometry import Geometry
from sfxlab.integration import Reflections
from sfxlab.interop.stream_lines import Fields, Lines, Table
from sfxlab.peaks import Peaks
from sfxlab.pipeline import FrameResult, Status

_BEGIN_CHUNK, _END_CHUNK = "----- Begin chunk", "----- End chunk"
_BEGIN_CRYSTAL, _END_CRYSTAL = "--- Begin crystal", "--- End crystal"
_MEASURED = {"intensity": "i", "sigma": "sigma(i)", "peak": "peak", "background": "background"}
_UNKNOWN = ("intensity_sum", "sigma_sum", "intensity_profile", "sigma_profile")
_CELL_KEYS = ("a", "b", "c", "al", "be", "ga")


@dataclass(frozen=True)
class Stream:
    """A stream whose header has been read; the chunks are read as they are asked for."""

    path: Path
    format: str
    """Version of the stream format, for example `2.3`."""
    generator: str
    """Program that wrote the stream."""
    command: str
    """Its command line, empty where the stream does not say."""
    geometry_text: str
    """The geometry file, empty where the stream has none."""
    cell: UnitCell | None
    """The target cell."""

    def results(self) -> Iterator[FrameResult]:
        """What became of each frame, one chunk in memory at a time.

        What a stream does not hold is NaN (uncertainty and signal-to-noise ratio of peaks) or follows from what it
        holds: the excitation error of a reflection from the crystal's basis and the photon energy, its partiality
        from the profile radius (exp(−ε²/2R²), METHODS.md section 5.2). A panel is −1 where the stream has no geometry.

        Raises `StreamError` naming the line at which the stream is damaged or ends too early.
        """
        panels = _PanelTable(self.detector)
        with Lines(self.path) as lines:
            count = 0
            for line in lines:
                if line.startswith(_BEGIN_CHUNK):
                    yield _chunk(lines, panels, self.cell, count)
                    count += 1

    @cached_property
    def detector(self) -> Detector | None:
        """The detector at the camera length of the first frame, None where the stream has no geometry."""
        if not self.geometry_text.strip():
            return None
        try:
            geometry = header_geometry(self.geometry_text)
        except GeometryError as error:
            raise StreamError(
                f"the geometry in the header cannot be used: {error.problem}",
                path=self.path,
                place=f"geometry, {error.place}" if error.place else "geometry",
                found=error.found,
                expected=error.expected,
                remedy=error.remedy,
            ) from error
        # A stream shows the mean over the panels, `coffset` included; a geometry file gives it without.
        offset = float(np.mean([source.panel.corner[2] for source in geometry.panels]))
        return geometry.detector(self._first_camera_length() - offset)

    def _first_camera_length(self) -> float:
        with Lines(self.path) as lines:
            for line in lines:
                if line.startswith("average_camera_length"):
                    fields = Fields(lines)
                    fields.add(line)
                    return fields.number("average_camera_length", math.nan)
        return math.nan


def read_stream(path: str | Path) -> Stream:
    """Read the header of a CrystFEL stream.

    Raises `StreamError` naming the file and the line where there is no such file, it is no stream, or its header is
    damaged.
    """
    with Lines(Path(path)) as lines:
        first = next(lines, "")
        if not first.startswith("CrystFEL stream format 2."):
            raise lines.error(
                "this is not a stream that can be read", found=repr(first[:60]), expected="'CrystFEL stream format 2.3'"
            )
        generator, command, geometry_text, cell = "", "", "", None
        for line in lines:
            if line.startswith(_BEGIN_CHUNK):
                break
            if line.startswith("----- Begin geometry file"):
                geometry_text = "\n".join(lines.until("----- End geometry file")) + "\n"
            elif line.startswith("----- Begin unit cell"):
                cell = _target_cell(lines)
            elif line.startswith("Generated by "):
                generator = line.removeprefix("Generated by ")
            elif not command and not line.startswith("Indexing methods selected"):
                command = line
        return Stream(Path(path), first.split()[-1], generator, command, geometry_text, cell)


def header_geometry(text: str) -> Geometry:
    """The geometry in a stream's header, without the warnings about it: whoever reads a stream did not write it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SfxlabWarning)
        return parse_geometry(text)


class _PanelTable:
    """From the panel names and file coordinates of a stream to panel numbers and slab coordinates."""

    def __init__(self, detector: Detector | None) -> None:
        panels = () if detector is None else detector.panels
        self.known = detector is not None
        self._number = {p.name: i for i, p in enumerate(panels)}
        # The last row serves panel −1: coordinates that stay as they are.
        self._shift = np.array([(p.column - p.file_fs, p.row - p.file_ss) for p in panels] + [(0, 0)], dtype=float)
        self._bounds = [(p.file_fs, p.file_fs + p.columns, p.file_ss, p.file_ss + p.rows) for p in panels]

    def place(self, table: Table) -> tuple[NDArray[np.int16], NDArray[np.float32], NDArray[np.float32]]:
        """Panel, slab fs and slab ss of the rows of a table, each (n,)."""
        fs, ss = table.floats("fs/px"), table.floats("ss/px")
        if not self.known:
            panel = np.full(len(fs), -1, dtype=np.int16)
        elif table.has("panel"):
            panel = table.lookup("panel", self._number)
        else:
            panel = self._by_position(fs, ss)
        shift = self._shift[panel]
        return panel, (fs + shift[:, 0]).astype(np.float32), (ss + shift[:, 1]).astype(np.float32)

    def check_inside(self, table: Table) -> None:
        """Raise `StreamError` for a row whose position is not on the panel that it names.

        Streams round positions, so that those at an edge may be just beyond it.
        """
        if not (self.known and table.has("panel") and len(table)):
            return
        fs, ss = table.floats("fs/px"), table.floats("ss/px")
        fs_from, fs_to, ss_from, ss_to = np.array(self._bounds)[table.lookup("panel", self._number)].T
        inside = (fs >= fs_from - 1) & (fs <= fs_to + 1) & (ss >= ss_from - 1) & (ss <= ss_to + 1)
        if not inside.all():
            table.refuse(int(np.flatnonzero(~inside)[0]), "this peak is not on its panel")

    def _by_position(self, fs: NDArray[np.float64], ss: NDArray[np.float64]) -> NDArray[np.int16]:
        panel = np.full(len(fs), -1, dtype=np.int16)
        for i, (fs_from, fs_to, ss_from, ss_to) in enumerate(self._bounds):
            inside = (fs >= fs_from) & (fs < fs_to) & (ss >= ss_from) & (ss < ss_to)
            panel[inside & (panel < 0)] = i
        return panel


def _target_cell(lines: Lines) -> UnitCell | None:
    """The cell in the header; None where only its lattice type is given."""
    begin = lines.number
    text = "\n".join(lines.until("----- End unit cell"))
    keys = {line.partition("=")[0].strip() for line in text.splitlines() if "=" in line}
    if not keys.issuperset(_CELL_KEYS):
        return None
    try:
        return parse_cell(text)
    except CellError as error:
        raise lines.error(
            f"the target cell is damaged: {error.problem}", number=begin, found=error.found, expected=error.expected
        ) from error


def _chunk(lines: Lines, panels: _PanelTable, target: UnitCell | None, count: int) -> FrameResult:
    fields = Fields(lines)
    peaks = Peaks.empty()
    crystals: list[tuple[Crystal, Table | None]] = []
    for line in lines.until(_END_CHUNK):
        if line.startswith("Peaks from peak search"):
            peaks = _peaks(Table(lines, "End of peak list"), panels)
        elif line.startswith(_BEGIN_CRYSTAL):
            crystals.append(_crystal(lines, target))
        else:
            fields.add(line)
    # Only what was found in a frame depends on its energy: one that failed may have none.
    photon_energy = fields.positive("photon_energy_eV") if crystals else fields.number("photon_energy_eV", math.nan)
    return FrameResult(
        id=FrameId(fields.required("Image filename"), fields.text("Event", "//")),
        index=fields.whole("Image serial number", count + 1) - 1,
        status=_status(fields, bool(crystals)),
        reason=fields.text("header/str/sfxlab/reason", ""),
        photon_energy=photon_energy,
        camera_length=fields.number("average_camera_length", math.nan),
        peaks=peaks,
        crystals=tuple(crystal for crystal, _ in crystals),
        reflections=tuple(_reflections(table, crystal, photon_energy, panels) for crystal, table in crystals),
        bandwidth=fields.number("beam_bandwidth", math.nan),
    )


def _status(fields: Fields, indexed: bool) -> Status:
    if fields.text("header/str/sfxlab/status", "") == "failed":
        return "failed"
    if indexed:
        return "indexed"
    return "hit" if fields.number("hit", 0) else "blank"


def _peaks(table: Table, panels: _PanelTable) -> Peaks:
    panels.check_inside(table)
    panel, fs, ss = panels.place(table)
    unknown = np.full(len(fs), np.nan, dtype=np.float32)
    return Peaks(
        panel=panel,
        fs=fs,
        ss=ss,
        intensity=table.floats("intensity").astype(np.float32),
        sigma=unknown,
        snr=unknown,
        resolution=(table.floats("(1/d)/nm^-1") / 10).astype(np.float32),
        max_value=unknown,
        n_pixels=np.zeros(len(fs), dtype=np.int16),
    )


def _crystal(lines: Lines, target: UnitCell | None) -> tuple[Crystal, Table | None]:
    fields = Fields(lines)
    table = None
    for line in lines.until(_END_CRYSTAL):
        if line.startswith("Reflections measured after indexing"):
            table = Table(lines, "End of reflections")
        else:
            fields.add(line)
    basis = np.array([fields.numbers(f"{axis}star", 3) for axis in "abc"]).T / 10
    if not (np.isfinite(basis).all() and abs(np.linalg.det(basis)) > 1e-6 * np.linalg.norm(basis) ** 3):
        raise fields.error("astar, bstar and cstar span no lattice", "astar")
    shift_key = "predict_refine/det_shift x"
    shift_x, shift_y = fields.numbers(shift_key, 2) if fields.has(shift_key) else (0.0, 0.0)
    crystal = Crystal(
        cell=_cell(fields, target),
        basis=basis,
        profile_radius=(fields.positive("profile_radius") if fields.has("profile_radius") else math.nan) / 10,
        resolution_limit=fields.number("diffraction_resolution_limit", math.inf) / 10,
        detector_shift=(shift_x / 1000, shift_y / 1000),
        n_peaks=int(fields.number("sfxlab/n_peaks", 0)),
        log10_p=fields.number("sfxlab/log10_p", 0.0),
        rms_residual=fields.number("sfxlab/rms_residual", math.nan),
    )
    return crystal, table


def _cell(fields: Fields, target: UnitCell | None) -> UnitCell:
    """The crystal's own cell; older streams leave the lattice to the target cell."""
    a, b, c, alpha, beta, gamma = fields.numbers("Cell parameters", 6)
    kind = target or UnitCell(1, 1, 1)
    axis = fields.text("unique_axis", kind.unique_axis or "*")
    try:
        return UnitCell(
            10 * a,
            10 * b,
            10 * c,
            alpha,
            beta,
            gamma,
            lattice_type=fields.choice("lattice_type", LATTICE_TYPES, kind.lattice_type),  # type: ignore[arg-type]
            centring=fields.choice("centering", CENTRINGS, kind.centring),  # type: ignore[arg-type]
            unique_axis=axis if axis in ("a", "b", "c") else None,  # type: ignore[arg-type]
        )
    except CellError as error:
        raise fields.error(error.problem, "Cell parameters") from error


def _reflections(table: Table | None, crystal: Crystal, photon_energy: float, panels: _PanelTable) -> Reflections:
    if table is None:
        return _no_reflections()
    h, k, l = (table.integers(index) for index in "hkl")  # noqa: E741  the field's name for it
    q = crystal.q(np.stack([h, k, l], axis=1))
    wavenumber = photon_energy / HC_EV_ANGSTROM
    excitation_error = wavenumber - np.linalg.norm(q + np.array([0, 0, wavenumber]), axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        partiality = np.exp(-0.5 * (excitation_error / crystal.profile_radius) ** 2)
    panel, fs, ss = panels.place(table)
    n = len(table)
    measured = {
        name: table.floats(column).astype(np.float32)
        if table.has(column) or name == "intensity" else np.full(n, np.nan, np.float32)
        for name, column in _MEASURED.items()
    }  # fmt: skip
    return Reflections(
        h=h,
        k=k,
        l=l,
        **measured,
        **dict.fromkeys(_UNKNOWN, np.full(n, np.nan, np.float32)),
        partiality=partiality.astype(np.float32),
        excitation_error=excitation_error.astype(np.float32),
        panel=panel,
        fs=fs,
        ss=ss,
        resolution=np.linalg.norm(q, axis=1).astype(np.float32),
        saturated=np.zeros(n, dtype=np.bool_),
    )


def _no_reflections() -> Reflections:
    kinds = {"h": np.int32, "k": np.int32, "l": np.int32, "panel": np.int16, "saturated": np.bool_}
    return Reflections(*(np.zeros(0, dtype=kinds.get(f.name, np.float32)) for f in fields_of(Reflections)))
