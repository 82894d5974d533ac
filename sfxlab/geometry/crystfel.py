"""Reading CrystFEL geometry files.

Grammar and keys: METHODS.md section 1.2. A bare `key = value` is the default of the panels first mentioned after it,
so the order of lines matters.
"""

from __future__ import annotations

import difflib
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from sfxlab.errors import GeometryError, SfxlabWarning, suggestion
from sfxlab.geometry.crystfel_panels import PANEL_KEYS, PanelEntries, canonical_key, panel_sources
from sfxlab.geometry.crystfel_values import Entry, integer, names, number, quantity
from sfxlab.geometry.geometry import BadArea, BadPixels, Geometry, Group, PanelSource, Quantity
from sfxlab.remote.addresses import is_address
from sfxlab.remote.files import content_at

_ENERGY_KEYS = ("photon_energy", "wavelength", "electron_voltage")
_TOP_KEYS = (
    *_ENERGY_KEYS,
    "clen",
    "bandwidth",
    "detector_shift_x",
    "detector_shift_y",
    "peak_list",
    "peak_list_type",
)
_BAD_PIXEL_KEYS = ("min_fs", "max_fs", "min_ss", "max_ss")
_BAD_AREA_KEYS = ("min_x", "max_x", "min_y", "max_y")
_OBSOLETE_KEYS = ("badrow_direction", "rail_direction", "photon_energy_scale", "integr_radius")


def read_geometry(path: str | Path) -> Geometry:
    """Read a CrystFEL geometry file, on disk or at an address.

    Raises `GeometryError` naming the file and the line for whatever is missing or wrong in it, `UnreachableError` where
    a server does not give it; warns (`SfxlabWarning`) of what it says in vain.
    """
    try:
        content = content_at(str(path)) if is_address(path) else Path(path).read_bytes()
    except FileNotFoundError:
        raise GeometryError(
            "there is no such geometry file", path=path, remedy="check the path given with -g"
        ) from None
    except OSError as error:
        raise GeometryError("the geometry file cannot be read", path=path, found=error.strerror) from error
    if b"\0" in content:
        raise GeometryError(
            "this is not a geometry file", path=path, found="binary data", expected="a CrystFEL .geom file",
            remedy="frames go first, the geometry after -g",
        )  # fmt: skip
    return parse_geometry(content.decode("utf-8-sig", errors="replace"), path)


def parse_geometry(text: str, path: str | Path | None = None) -> Geometry:
    """The geometry that a text describes; `path` is for messages."""
    draft = _Draft(None if path is None else str(path))
    for line, raw in enumerate(text.splitlines(), start=1):
        statement = raw.split(";", 1)[0].strip()
        if statement:
            _take(draft, statement, line)
    return _assemble(draft, text)


def _take(draft: _Draft, statement: str, line: int) -> None:
    """Put one line where it belongs."""
    left, equals, value = (part.strip() for part in statement.partition("="))
    if not equals:
        raise GeometryError(
            "a line without '='", path=draft.path, place=f"line {line}", found=statement,
            expected="key = value, name/key = value, or a comment after ';'",
        )  # fmt: skip
    scope, slash, key = (part.strip() for part in left.rpartition("/"))
    entry = Entry(canonical_key(key), value, line, draft.path, scope)
    if scope.startswith("bad"):
        _take_bad(draft, entry)
    elif slash and (not scope or scope.startswith(("group", "rigid_group"))):
        raise entry.error("a name that does not begin with bad, group or rigid_group", f"'{scope}' cannot name a panel")
    elif slash:
        _take_panel(draft, entry)
    else:
        _take_top(draft, entry)


def _take_bad(draft: _Draft, entry: Entry) -> None:
    known = (*_BAD_PIXEL_KEYS, *_BAD_AREA_KEYS, "panel")
    if entry.key not in known:
        raise entry.error(", ".join(known), f"a bad region has no key '{entry.key}'", suggestion(entry.key, known))
    draft.bad.setdefault(entry.scope, {})[entry.key] = entry


def _take_panel(draft: _Draft, entry: Entry) -> None:
    panel = draft.panels.setdefault(entry.scope, draft.defaults.copy())
    if entry.key == "clen":
        draft.panel_clen[entry.scope] = entry
    elif entry.key in _TOP_KEYS:
        raise entry.error(f"'{entry.key} = …' without a panel's name", f"'{entry.key}' belongs to the whole detector")
    elif not panel.take(entry):
        _take_unknown(draft, entry, PANEL_KEYS)


def _take_top(draft: _Draft, entry: Entry) -> None:
    if entry.key in _TOP_KEYS:
        before = draft.top.get(entry.key)
        if before is not None and before.text != entry.text:
            raise entry.error(
                f"the value of line {before.line}, '{before.text}'", f"'{entry.key}' is given twice",
                "remove one of the two lines",
            )  # fmt: skip
        draft.top[entry.key] = entry
    elif entry.key.startswith("rigid_group_"):
        draft.rigid_groups[entry.key.removeprefix("rigid_group_")] = entry
    elif entry.key.startswith("group_"):
        draft.groups[entry.key.removeprefix("group_")] = entry
    elif not draft.defaults.take(entry):
        _take_unknown(draft, entry, (*_TOP_KEYS, *PANEL_KEYS))


def _take_unknown(draft: _Draft, entry: Entry, known: tuple[str, ...]) -> None:
    """Refuse what looks like a slip of the pen, keep the rest."""
    alike = difflib.get_close_matches(entry.key, known, n=1, cutoff=0.8)
    if alike and entry.key not in _OBSOLETE_KEYS:
        raise entry.error(None, f"unknown key '{entry.key}'", f"did you mean '{alike[0]}'?")
    draft.other.append((entry.full_key, entry.text))
    draft.warn(f"line {entry.line}", f"'{entry.key}' means nothing to sfxlab and is left aside")


def _assemble(draft: _Draft, text: str) -> Geometry:
    if not draft.panels:
        raise GeometryError("the geometry has no panels", path=draft.path, expected="lines such as 'p0/min_fs = 0'")
    energy = _photon_energy(draft)
    clen = _camera_length(draft)
    panels = panel_sources(draft.panels, draft.path)
    top = {key: entry for key, entry in draft.top.items() if key not in ("clen", energy.key)}
    if draft.rigid_groups:
        draft.warn("rigid_group_…", "rigid groups are no longer used; write 'group_NAME = …' to move panels together")
    regions = tuple(_bad_region(draft, name, keys) for name, keys in draft.bad.items())
    _warn_of_misses(draft, panels, regions)
    return Geometry(
        panels=panels,
        photon_energy=energy,
        camera_length=clen,
        detector_shift_x=quantity(top["detector_shift_x"]) if "detector_shift_x" in top else None,
        detector_shift_y=quantity(top["detector_shift_y"]) if "detector_shift_y" in top else None,
        bandwidth=number(top["bandwidth"]) if "bandwidth" in top else None,
        bad_regions=regions,
        groups=_groups(draft),
        rigid_groups=tuple(Group(name, names(entry)) for name, entry in draft.rigid_groups.items()),
        peak_list=top["peak_list"].text if "peak_list" in top else None,
        peak_list_type=top["peak_list_type"].text if "peak_list_type" in top else None,
        other=tuple(draft.other),
        text=text,
        path=draft.path,
    )


def _photon_energy(draft: _Draft) -> Quantity:
    given = [draft.top[key] for key in _ENERGY_KEYS if key in draft.top]
    if not given:
        raise GeometryError(
            "the photon energy is missing", path=draft.path, expected=" or ".join(_ENERGY_KEYS),
            remedy="add a line such as 'photon_energy = 9500 eV' or 'photon_energy = /LCLS/photon_energy_eV eV'",
        )  # fmt: skip
    if len(given) > 1:
        raise given[1].error(
            f"one of {', '.join(_ENERGY_KEYS)}", f"'{given[1].key}' beside '{given[0].key}' of line {given[0].line}",
            "remove one of the two lines",
        )  # fmt: skip
    return quantity(given[0])


def _camera_length(draft: _Draft) -> Quantity:
    """`clen`, which older files give for each panel."""
    top = draft.top.get("clen")
    entries = {name: draft.panel_clen.get(name, top) for name in draft.panels}
    missing = next((name for name, entry in entries.items() if entry is None), None)
    if missing is not None:
        raise GeometryError(
            "the camera length is missing", path=draft.path, place=f"panel {missing}",
            expected="clen, for all panels",
            remedy="add a line such as 'clen = 0.06 m' or 'clen = /LCLS/detector_1/EncoderValue mm'",
        )  # fmt: skip
    found = {name: quantity(entry) for name, entry in entries.items() if entry is not None}
    first_name, first = next(iter(found.items()))
    for name, other in found.items():
        if (other.value, other.unit) != (first.value, first.unit):
            raise GeometryError(
                "panels have different camera lengths", path=draft.path, place=f"panel {name}",
                found=f"{other.value} {other.unit}", expected=f"{first.value} {first.unit} as for panel {first_name}",
                remedy="give one 'clen', and the differences as 'coffset' (metres) of the panels",
            )  # fmt: skip
    if draft.panel_clen:
        draft.warn(
            f"panel {next(iter(draft.panel_clen))}",
            "clen belongs to the whole detector; all panels agree, so it is used",
        )
    return first


def _bad_region(draft: _Draft, name: str, keys: dict[str, Entry]) -> BadPixels | BadArea:
    in_pixels = [key for key in (*_BAD_PIXEL_KEYS, "panel") if key in keys]
    in_laboratory = [key for key in _BAD_AREA_KEYS if key in keys]
    if in_pixels and in_laboratory:
        raise keys[in_laboratory[0]].error(
            "fs and ss of one panel, or x and y", f"bad region '{name}' mixes {in_pixels[0]} and {in_laboratory[0]}"
        )
    wanted = (*_BAD_PIXEL_KEYS, "panel") if in_pixels else _BAD_AREA_KEYS
    missing = [key for key in wanted if key not in keys]
    if missing:
        raise GeometryError(
            f"bad region '{name}' is incomplete", path=draft.path, place=name,
            found=", ".join(keys), expected=", ".join(wanted),
            remedy=f"add {', '.join(f'{name}/{key} = …' for key in missing)}",
        )  # fmt: skip
    for low, high in (("min_x", "max_x"), ("min_y", "max_y"), ("min_fs", "max_fs"), ("min_ss", "max_ss")):
        if low in keys and number(keys[low], infinite=True) > number(keys[high], infinite=True):
            draft.warn(f"line {keys[high].line}", f"bad region '{name}' is empty: its {low} is above its {high}")
    if not in_pixels:
        return BadArea(name, *(number(keys[key], infinite=True) for key in _BAD_AREA_KEYS))
    panel = keys["panel"]
    if panel.text not in draft.panels:
        raise panel.error(
            "a panel of this file", f"bad region '{name}' is on an unknown panel", suggestion(panel.text, draft.panels)
        )
    return BadPixels(name, panel.text, *(integer(keys[key]) for key in _BAD_PIXEL_KEYS))


def _warn_of_misses(draft: _Draft, panels: tuple[PanelSource, ...], regions: tuple[BadPixels | BadArea, ...]) -> None:
    by_name = {source.panel.name: source.panel for source in panels}
    for region in regions:
        if isinstance(region, BadArea):
            continue
        p = by_name[region.panel]
        fs = region.max_fs < p.file_fs or region.min_fs >= p.file_fs + p.columns
        ss = region.max_ss < p.file_ss or region.min_ss >= p.file_ss + p.rows
        if fs or ss:
            line = draft.bad[region.name]["panel"].line
            draft.warn(f"line {line}", f"bad region '{region.name}' lies outside panel '{region.panel}'")


def _groups(draft: _Draft) -> tuple[Group, ...]:
    """The groups with all members known; a flat group `all` where there are none."""
    if not draft.groups:
        return (Group("all", tuple(draft.panels)),)
    known = {*draft.panels, *draft.groups}
    for name, entry in draft.groups.items():
        for member in names(entry):
            if member not in known or member == name:
                raise entry.error(
                    "panels or other groups", f"group '{name}' cannot have the member '{member}'",
                    suggestion(member, known - {name}),
                )  # fmt: skip
    return tuple(Group(name, names(entry)) for name, entry in draft.groups.items())


@dataclass
class _Draft:
    """The lines of a file, sorted by what they belong to."""

    path: str | None
    top: dict[str, Entry] = field(default_factory=dict)
    defaults: PanelEntries = field(default_factory=PanelEntries)
    panels: dict[str, PanelEntries] = field(default_factory=dict)
    panel_clen: dict[str, Entry] = field(default_factory=dict)
    bad: dict[str, dict[str, Entry]] = field(default_factory=dict)
    groups: dict[str, Entry] = field(default_factory=dict)
    rigid_groups: dict[str, Entry] = field(default_factory=dict)
    other: list[tuple[str, str]] = field(default_factory=list)

    def warn(self, place: str, message: str) -> None:
        where = f"{self.path}, {place}" if self.path else place
        warnings.warn(f"{where}: {message}", SfxlabWarning, stacklevel=2)
