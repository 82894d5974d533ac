"""Writing CrystFEL geometry files."""

from __future__ import annotations

import math
from pathlib import Path

from sfxlab.errors import OutputExistsError
from sfxlab.geometry.detector import Vector
from sfxlab.geometry.geometry import BadPixels, Geometry, Group, PanelSource, Quantity
from sfxlab.whole_files import written_whole


def format_geometry(geometry: Geometry) -> str:
    """The text of a CrystFEL geometry file; reading it gives the same geometry, positions to 10⁻¹² of their size.

    What all panels share stands at the top, in the place of the comments and the order of the file that was read.
    """
    own = {source.panel.name: _setting_lines(source) for source in geometry.panels}
    shared = [line for line in next(iter(own.values())) if all(line in lines for lines in own.values())]
    lines = [*_top_lines(geometry), "", *shared, "", *_region_lines(geometry)]
    lines += [f"rigid_group_{g.name} = {','.join(g.members)}" for g in geometry.rigid_groups]
    if geometry.groups != (Group("all", tuple(own)),):
        lines += [f"group_{g.name} = {','.join(g.members)}" for g in geometry.groups]
    for source in geometry.panels:
        name = source.panel.name
        settings = [line for line in own[name] if line not in shared]
        lines += ["", *(f"{name}/{line}" for line in (*settings, *_position_lines(source)))]
    lines += ["", *(f"{key} = {value}" for key, value in geometry.other)]
    return "\n".join(lines).strip() + "\n"


def write_geometry(geometry: Geometry, path: str | Path, overwrite: bool = False) -> None:
    """Write a CrystFEL geometry file, whole or not at all.

    Raises `OutputExistsError` where there is a file already that is not to be overwritten, `RunError` where it cannot
    be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise OutputExistsError(
            "the geometry file exists", path=path, remedy="choose another name, or ask for it to be overwritten"
        )
    with written_whole(path) as file:
        file.write(format_geometry(geometry).encode("utf-8"))


def _top_lines(geometry: Geometry) -> list[str]:
    quantities = (
        geometry.photon_energy,
        geometry.camera_length,
        geometry.detector_shift_x,
        geometry.detector_shift_y,
    )
    lines = [f"{q.key} = {_quantity(q)}" for q in quantities if q is not None]
    if geometry.bandwidth is not None:
        lines.append(f"bandwidth = {_number(geometry.bandwidth)}")
    lines += [
        f"{key} = {value}"
        for key, value in (("peak_list", geometry.peak_list), ("peak_list_type", geometry.peak_list_type))
        if value is not None
    ]
    return lines


def _quantity(q: Quantity) -> str:
    return f"{q.value if isinstance(q.value, str) else _number(q.value)} {q.unit}"


def _number(value: float) -> str:
    """The shortest text that reads back as the same number."""
    return f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else repr(value)


def _setting_lines(source: PanelSource) -> list[str]:
    p = source.panel
    lines = [f"res = {_number(source.resolution)}", f"data = {source.data}"]
    lines += [f"dim{n} = {value}" for n, value in enumerate(source.dims)]
    for mask in source.masks:
        lines.append(f"mask{mask.number}_data = {mask.data}")
        if mask.file is not None:
            lines.append(f"mask{mask.number}_file = {mask.file}")
        lines.append(f"mask{mask.number}_goodbits = {mask.good_bits:#x}")
        lines.append(f"mask{mask.number}_badbits = {mask.bad_bits:#x}")
    optional = {
        "adu_per_photon": None if p.adu_per_photon is None else _number(p.adu_per_photon),
        "adu_per_eV": None if p.adu_per_ev is None else _number(p.adu_per_ev),
        "max_adu": None if p.max_adu == math.inf else _number(p.max_adu),
        "saturation_map": source.saturation_map,
        "saturation_map_file": source.saturation_map_file,
        "mask_edge_pixels": source.mask_edge_pixels or None,
        "no_index": "true" if source.no_index else None,
    }
    lines += [f"{key} = {value}" for key, value in optional.items() if value is not None]
    return lines + [f"flag_{flag.kind} = {_number(flag.value)}" for flag in source.flags]


def _position_lines(source: PanelSource) -> list[str]:
    p, res = source.panel, source.resolution
    return [
        f"min_fs = {p.file_fs}",
        f"max_fs = {p.file_fs + p.columns - 1}",
        f"min_ss = {p.file_ss}",
        f"max_ss = {p.file_ss + p.rows - 1}",
        f"corner_x = {p.corner[0] * res:.12g}",
        f"corner_y = {p.corner[1] * res:.12g}",
        f"coffset = {p.corner[2]:.12g}",
        f"fs = {_vector(p.fs, res)}",
        f"ss = {_vector(p.ss, res)}",
    ]


def _vector(v: Vector, resolution: float) -> str:
    return " ".join(f"{component * resolution:+.12g}{axis}" for component, axis in zip(v, "xyz", strict=True))


def _region_lines(geometry: Geometry) -> list[str]:
    lines = []
    for region in geometry.bad_regions:
        if isinstance(region, BadPixels):
            keys: tuple[str, ...] = ("panel", "min_fs", "max_fs", "min_ss", "max_ss")
        else:
            keys = ("min_x", "max_x", "min_y", "max_y")
        values = {key: getattr(region, key) for key in keys}
        lines += [
            f"{region.name}/{key} = {value if isinstance(value, str) else _number(float(value))}"
            for key, value in values.items()
        ]
        lines.append("")
    return lines
