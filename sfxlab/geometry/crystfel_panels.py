"""Panels of a CrystFEL geometry file: METHODS.md section 1.2."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from sfxlab.errors import GeometryError
from sfxlab.geometry.crystfel_values import Entry, bits, boolean, integer, number, vector
from sfxlab.geometry.detector import Panel, Vector
from sfxlab.geometry.geometry import Dims, Flag, MaskSource, PanelSource, stack_blocks

_REQUIRED_KEYS = {
    "min_fs": "0",
    "max_fs": "1023",
    "min_ss": "0",
    "max_ss": "511",
    "corner_x": "-512.0",
    "corner_y": "512.0",
    "fs": "+1.0x +0.0y",
    "ss": "+0.0x -1.0y",
    "res": "13333.3",
}
"""Keys that have no default, with an example."""
_MASK_PARTS = ("data", "file", "goodbits", "badbits")
_LEGACY_MASK_KEYS = {
    "mask": "mask0_data",
    "mask_file": "mask0_file",
    "mask_good": "mask0_goodbits",
    "mask_bad": "mask0_badbits",
}
_FLAG_KEYS = ("flag_lessthan", "flag_morethan", "flag_equal")
PANEL_KEYS = (
    *_REQUIRED_KEYS,
    "coffset",
    "data",
    *(f"dim{n}" for n in range(10)),
    "adu_per_photon",
    "adu_per_eV",
    "max_adu",
    "saturation_map",
    "saturation_map_file",
    "no_index",
    "mask_edge_pixels",
    *_FLAG_KEYS,
    *(f"mask{n}_{part}" for n in range(8) for part in _MASK_PARTS),
)
"""Every key that a panel may have."""
_INSTEAD = {"adu_per_photon": "adu_per_eV", "adu_per_eV": "adu_per_photon"}


def canonical_key(key: str) -> str:
    """The key's present name: `mask_good` was what is now `mask0_goodbits`."""
    return _LEGACY_MASK_KEYS.get(key, key)


def panel_sources(panels: Mapping[str, PanelEntries], path: str | None) -> tuple[PanelSource, ...]:
    """The panels with their places in the slab.

    Raises `GeometryError` naming the panel and what to add, or the line that is wrong, or panels that overlap.
    """
    stacked = stack_blocks([_panel_source(name, entries, path) for name, entries in panels.items()])
    _check_overlap(stacked, path)
    return stacked


def _panel_source(name: str, entries: PanelEntries, path: str | None) -> PanelSource:
    """The panel that its lines, and the defaults before them, describe."""
    keys = entries.keys
    missing = [key for key in _REQUIRED_KEYS if key not in keys]
    if missing:
        raise GeometryError(
            f"panel '{name}' is incomplete: {', '.join(missing)} missing", path=path, place=f"panel {name}",
            remedy=f"add, with your values, {', '.join(f'{name}/{k} = {_REQUIRED_KEYS[k]}' for k in missing)}",
        )  # fmt: skip
    if "saturation_map_file" in keys and "saturation_map" not in keys:
        raise keys["saturation_map_file"].error(
            "saturation_map too, the HDF5 path in that file", "the saturation map has a file but no path in it",
            "add 'saturation_map = /saturation' (with your path)",
        )  # fmt: skip
    resolution = number(keys["res"])
    if resolution <= 0:
        raise keys["res"].error("pixels per metre, more than 0")
    return PanelSource(
        panel=_panel(name, entries, resolution),
        resolution=resolution,
        data=keys["data"].text if "data" in keys else "/data/data",
        dims=_dims(name, keys, path),
        masks=_masks(keys),
        flags=tuple(sorted({_flag(entry) for entry in entries.flags})),
        no_index="no_index" in keys and boolean(keys["no_index"]),
        mask_edge_pixels=integer(keys["mask_edge_pixels"]) if "mask_edge_pixels" in keys else 0,
        saturation_map=keys["saturation_map"].text if "saturation_map" in keys else None,
        saturation_map_file=keys["saturation_map_file"].text if "saturation_map_file" in keys else None,
    )


def _check_overlap(panels: Sequence[PanelSource], path: str | None) -> None:
    """Raise `GeometryError` where two panels claim the same pixels."""
    for a, b in combinations((p.panel for p in panels), 2):
        if (
            a.row < b.row + b.rows
            and b.row < a.row + a.rows
            and a.column < b.column + b.columns
            and b.column < a.column + a.columns
        ):
            raise GeometryError(
                f"panels '{a.name}' and '{b.name}' overlap in the data", path=path, place=f"panel {b.name}",
                found="; ".join(_extent(p) for p in (a, b)), expected="each pixel in one panel",
                remedy="correct min_fs, max_fs, min_ss, max_ss, or the data path and dims of one of them",
            )  # fmt: skip


def _extent(p: Panel) -> str:
    return f"{p.name} fs {p.file_fs}-{p.file_fs + p.columns - 1}, ss {p.file_ss}-{p.file_ss + p.rows - 1}"


def _panel(name: str, entries: PanelEntries, resolution: float) -> Panel:
    keys = entries.keys
    min_fs, max_fs, min_ss, max_ss = (integer(keys[key]) for key in ("min_fs", "max_fs", "min_ss", "max_ss"))
    for low, high, key in ((min_fs, max_fs, "max_fs"), (min_ss, max_ss, "max_ss")):
        if not 0 <= low <= high:
            raise keys[key].error(
                f"at least {key.replace('max', 'min')} = {low}, and neither negative", f"panel '{name}' has no pixels"
            )
    fs, ss = vector(keys["fs"]), vector(keys["ss"])
    if np.linalg.norm(np.cross(fs, ss)) < 1e-6 * np.linalg.norm(fs) * np.linalg.norm(ss):
        raise keys["ss"].error("a direction across fs", f"fs and ss of panel '{name}' are parallel")
    gain = {key: number(keys[key]) for key in _INSTEAD if key in keys}
    return Panel(
        name=name,
        row=min_ss,
        column=min_fs,
        rows=max_ss - min_ss + 1,
        columns=max_fs - min_fs + 1,
        corner=(
            number(keys["corner_x"]) / resolution,
            number(keys["corner_y"]) / resolution,
            number(keys["coffset"]) if "coffset" in keys else 0.0,
        ),
        fs=_scaled(fs, resolution),
        ss=_scaled(ss, resolution),
        file_fs=min_fs,
        file_ss=min_ss,
        adu_per_photon=gain.get("adu_per_photon"),
        adu_per_ev=gain.get("adu_per_eV"),
        max_adu=number(keys["max_adu"], infinite=True) if "max_adu" in keys else math.inf,
    )


def _scaled(v: Vector, resolution: float) -> Vector:
    return v[0] / resolution, v[1] / resolution, v[2] / resolution


def _dims(name: str, keys: dict[str, Entry], path: str | None) -> Dims:
    """Axes of the data array; dim0 = ss and dim1 = fs where the file does not say."""
    given: dict[int, int | str] = {0: "ss", 1: "fs"}
    for key, entry in keys.items():
        if match := re.fullmatch(r"dim(\d+)", key):
            given[int(match[1])] = entry.text if entry.text in ("%", "ss", "fs") else _fixed(entry)
    dims = tuple(given.get(n, "missing") for n in range(max(given) + 1))
    if "missing" in dims or dims.count("ss") != 1 or dims.count("fs") != 1 or dims.index("ss") > dims.index("fs"):
        raise GeometryError(
            f"the axes of panel '{name}' are wrong", path=path, place=f"panel {name}",
            found=", ".join(f"dim{n} = {value}" for n, value in enumerate(dims)),
            expected="dim0, dim1, … without a gap, 'ss' once, 'fs' once and after it, the rest '%' or integers",
            remedy="for frames stacked in one array: dim0 = %, dim1 = ss, dim2 = fs, before the first panel",
        )  # fmt: skip
    return dims


def _fixed(entry: Entry) -> int:
    try:
        value = integer(entry)
    except GeometryError:
        value = -1
    if value < 0:
        raise entry.error("ss, fs, % or an index from 0")
    return value


def _masks(keys: dict[str, Entry]) -> tuple[MaskSource, ...]:
    masks = []
    for n in range(8):
        parts = {part: keys[f"mask{n}_{part}"] for part in _MASK_PARTS if f"mask{n}_{part}" in keys}
        if "file" in parts and "data" not in parts:
            raise parts["file"].error(
                f"mask{n}_data too, the HDF5 path in that file", f"mask{n} has a file but no path in it",
                f"add 'mask{n}_data = /entry/mask' (with your path)",
            )  # fmt: skip
        if "data" not in parts:
            continue
        masks.append(
            MaskSource(
                number=n,
                data=parts["data"].text,
                file=parts["file"].text if "file" in parts else None,
                good_bits=bits(parts["goodbits"]) if "goodbits" in parts else 0,
                bad_bits=bits(parts["badbits"]) if "badbits" in parts else 0,
            )
        )
    return tuple(masks)


def _flag(entry: Entry) -> Flag:
    kind = entry.key.removeprefix("flag_")
    return Flag(kind, number(entry, infinite=True))  # type: ignore[arg-type]


@dataclass
class PanelEntries:
    """The lines of one panel, or the defaults so far."""

    keys: dict[str, Entry] = field(default_factory=dict)
    flags: list[Entry] = field(default_factory=list)

    def take(self, entry: Entry) -> bool:
        """Keep a line, where it can belong to a panel."""
        if entry.key in _FLAG_KEYS:
            self.flags.append(entry)
        elif entry.key in PANEL_KEYS:
            self.keys.pop(_INSTEAD.get(entry.key, ""), None)
            self.keys[entry.key] = entry
        else:
            return False
        return True

    def copy(self) -> PanelEntries:
        """Entries that can grow without changing these."""
        return PanelEntries(dict(self.keys), list(self.flags))
