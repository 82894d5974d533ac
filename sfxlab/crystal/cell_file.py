"""Unit cells from CrystFEL cell files, PDB files and MTZ files.

Format of the cell file: METHODS.md section 1.7.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from tempfile import NamedTemporaryFile

import gemmi

from sfxlab.crystal.cell import CENTRINGS, LATTICE_TYPES, UnitCell, check_lattice
from sfxlab.errors import CellError, suggestion
from sfxlab.remote.addresses import is_address
from sfxlab.remote.files import content_at
from sfxlab.whole_files import written_whole

_FIRST_LINE = "CrystFEL unit cell file version 1.0"
_LENGTHS = {"a": "a", "b": "b", "c": "c"}
_ANGLES = {"al": "alpha", "be": "beta", "ga": "gamma"}
_WORDS = ("lattice_type", "centering", "unique_axis")
_UNITS = {"A": 1.0, "nm": 10.0, "deg": 1.0, "rad": 180 / math.pi}


def read_cell(path: str | Path) -> UnitCell:
    """Read a unit cell from a CrystFEL `.cell`, a PDB or an MTZ file, on disk or at an address.

    Raises `CellError` naming the file and the line where the file is missing, damaged, or its parameters do not fit
    its lattice type; `UnreachableError` where a server does not give it.
    """
    if is_address(path):
        return _from_content(content_at(str(path)), str(path))
    path = Path(path)
    if not path.is_file():
        raise CellError("there is no such cell file", path=path, remedy="check the path given with -p")
    try:
        return _from_mtz(path, path) if path.suffix.lower() == ".mtz" else _from_content(path.read_bytes(), path)
    except OSError as error:
        raise CellError("the cell cannot be read", path=path, found=str(error)) from error


def _from_content(content: bytes, path: str | Path) -> UnitCell:
    """The cell of a file that was read from `path`."""
    if content.startswith(b"MTZ "):
        with NamedTemporaryFile(suffix=".mtz") as file:  # gemmi reads no MTZ from memory
            file.write(content)
            file.flush()
            return _from_mtz(Path(file.name), path)
    text = content.decode("utf-8-sig", errors="replace")
    if text.lstrip().startswith("CrystFEL unit cell file"):
        return parse_cell(text, path)
    try:
        structure = gemmi.read_pdb_string(text)
    except (RuntimeError, ValueError) as error:
        raise CellError("the cell cannot be read", path=path, found=str(error)) from error
    if not structure.cell.is_crystal():
        raise CellError(
            "this is neither a cell file nor a PDB file with a CRYST1 record",
            path=path,
            place="line 1",
            found=repr(text[:60]),
            expected=f"'{_FIRST_LINE}', CRYST1, or an MTZ file",
            remedy="write one with 'sfxlab cells RUN -o FILE.cell', or see README.md",
        )
    return _from_gemmi(structure.cell, structure.spacegroup_hm or "P 1", path)


def _from_mtz(file: Path, path: str | Path) -> UnitCell:
    try:
        mtz = gemmi.read_mtz_file(str(file), with_data=False)
    except (RuntimeError, ValueError) as error:
        raise CellError("the cell cannot be read", path=path, found=str(error)) from error
    return _from_gemmi(mtz.cell, mtz.spacegroup.hm if mtz.spacegroup else "P 1", path)


def parse_cell(text: str, path: str | Path | None = None) -> UnitCell:
    """The unit cell that the text of a CrystFEL cell file describes."""
    numbers: dict[str, float] = {}
    words: dict[str, str] = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split(";", 1)[0].strip()
        if not line or number == 1:
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        place = f"line {number}"
        if not equals:
            raise CellError("a line without '='", path=path, place=place, found=line, expected="key = value")
        if key in words or (_LENGTHS | _ANGLES).get(key) in numbers:
            raise CellError(f"'{key}' is given twice", path=path, place=place, remedy="remove one of the two lines")
        if key in _WORDS:
            words[key] = value
        elif key in _LENGTHS or key in _ANGLES:
            numbers[(_LENGTHS | _ANGLES)[key]] = _number(value, key, path, place)
        else:
            known = (*_WORDS, *_LENGTHS, *_ANGLES)
            raise CellError(
                f"unknown key '{key}'", path=path, place=place,
                expected=", ".join(known), remedy=suggestion(key, known),
            )  # fmt: skip
    missing = [key for key, name in (_LENGTHS | _ANGLES).items() if name not in numbers]
    if missing:
        raise CellError(
            "parameters are missing", path=path, found=sorted(numbers), expected="a, b, c, al, be, ga",
            remedy=f"add {', '.join(missing)}",
        )  # fmt: skip
    axis = words.get("unique_axis", "*")
    lattice_type = _choice(words.get("lattice_type", "triclinic"), LATTICE_TYPES, "lattice_type", path)
    centring = _choice(words.get("centering", "P"), CENTRINGS, "centering", path)
    unique_axis = None if axis in ("*", "?") else _choice(axis, ("a", "b", "c"), "unique_axis", path)
    try:
        cell = UnitCell(**numbers, lattice_type=lattice_type, centring=centring, unique_axis=unique_axis)  # type: ignore[arg-type]
        check_lattice(cell)
    except CellError as error:
        error.path = None if path is None else str(path)
        raise
    return cell


def format_cell(cell: UnitCell) -> str:
    """The text of a CrystFEL cell file."""
    lines = [_FIRST_LINE, "", f"lattice_type = {cell.lattice_type}", f"centering = {cell.centring}"]
    if cell.unique_axis:
        lines.append(f"unique_axis = {cell.unique_axis}")
    lines.append("")
    lines += [f"{key} = {value:.4f} A" for key, value in zip("abc", cell.lengths, strict=True)]
    lines += [f"{key} = {value:.4f} deg" for key, value in zip(("al", "be", "ga"), cell.angles, strict=True)]
    return "\n".join(lines) + "\n"


def write_cell(cell: UnitCell, path: str | Path) -> None:
    """Write a CrystFEL cell file, whole or not at all. Raises `RunError` where it cannot be written."""
    with written_whole(Path(path)) as file:
        file.write(format_cell(cell).encode("utf-8"))


def _number(value: str, key: str, path: str | Path | None, place: str) -> float:
    match = re.fullmatch(r"([-+0-9.eE]+)\s*([A-Za-z]+)", value)
    length = key in _LENGTHS
    units = ("A", "nm") if length else ("deg", "rad")
    try:
        if match is None or match[2] not in units:
            raise ValueError
        return float(match[1]) * _UNITS[match[2]]
    except ValueError:
        raise CellError(
            f"'{key}' is no {'length' if length else 'angle'}", path=path, place=place, found=value,
            expected="a number and A or nm" if length else "a number and deg or rad",
        ) from None  # fmt: skip


def _choice(value: str, known: tuple[str, ...], key: str, path: str | Path | None) -> str:
    if value not in known:
        raise CellError(
            f"unknown {key} '{value}'", path=path, expected=", ".join(known), remedy=suggestion(value, known)
        )
    return value


def _from_gemmi(cell: gemmi.UnitCell, hm: str, path: str | Path) -> UnitCell:
    group = gemmi.find_spacegroup_by_name(hm, cell.alpha, cell.gamma)
    if group is None:
        raise CellError(f"unknown space group '{hm}'", path=path, remedy="write a CrystFEL cell file instead")
    system = group.crystal_system_str()
    # gemmi calls the lattice of R 3:H "R", and that of R 3:R "P", which it is on rhombohedral axes.
    centring = group.centring_type()
    if group.hm.startswith("R"):
        centring = "H" if abs(cell.gamma - 120) < 0.01 and abs(cell.alpha - 90) < 0.01 else "R"
    if system == "trigonal":
        system = "rhombohedral" if centring in "RH" else "hexagonal"
    axis = {
        "monoclinic": "b",
        "tetragonal": "c",
        "hexagonal": "c",
        "rhombohedral": "c" if centring == "H" else None,
    }
    if system == "monoclinic":
        axis["monoclinic"] = {0: "a", 1: "b", 2: "c"}[_monoclinic_axis(cell)]
    a, b, c, alpha, beta, gamma = (round(x, 6) for x in cell.parameters)
    return UnitCell(a, b, c, alpha, beta, gamma, system, centring, axis.get(system))  # type: ignore[arg-type]


def _monoclinic_axis(cell: gemmi.UnitCell) -> int:
    """The axis whose angle is the free one; b where all angles are right."""
    deviation = [abs(cell.alpha - 90), abs(cell.beta - 90), abs(cell.gamma - 90)]
    return deviation.index(max(deviation)) if max(deviation) > 1e-3 else 1
