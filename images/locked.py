#!/usr/bin/env python3
"""The lines of requirements.lock, hashes and all, that sfxlab with some of its extras needs.

    images/locked.py euxfel remote > worker.txt
    images/locked.py --only hatchling > build.txt

Which package is wanted by which is what the comments "via" of the lock say.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

_NAME = re.compile(r"[A-Za-z0-9._-]+")


def canonical(requirement: str) -> str:
    """The name in a requirement, spelt as in a lock."""
    match = _NAME.match(requirement)
    if match is None:
        raise ValueError(f"no requirement: {requirement!r}")
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def entries(lock: str) -> dict[str, str]:
    """Each package's lines in a lock; a package may have several lines for several systems."""
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=[A-Za-z0-9])", lock.strip("\n")):
        name = canonical(entry)
        found[name] = found.get(name, "") + entry + "\n"
    return found


def wanted_by(entry: str) -> set[str]:
    """Packages that want this one."""
    comments = re.findall(r"^ +#(?: +via)? *([A-Za-z0-9._-]+)?", entry, re.MULTILINE)
    return {canonical(name) for name in comments if name}


def closure(found: Mapping[str, str], roots: Iterable[str]) -> set[str]:
    """The roots and all that they need."""
    needed = set(roots)
    if unknown := needed - found.keys():
        raise ValueError(f"not in the lock: {', '.join(sorted(unknown))}")
    parents = {name: wanted_by(entry) for name, entry in found.items()}
    while more := {name for name, wanting in parents.items() if wanting & needed} - needed:
        needed |= more
    return needed


def roots_of(project: Mapping[str, object], extras: Iterable[str]) -> set[str]:
    """What pyproject.toml asks for by itself and with these extras."""
    table: dict = project["project"]  # type: ignore[assignment]
    lists = [table["dependencies"], *(table["optional-dependencies"][extra] for extra in extras)]
    return {canonical(requirement) for requirements in lists for requirement in requirements}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extras", nargs="*", help="of sfxlab")
    parser.add_argument("--only", nargs="+", metavar="PACKAGE", help="these packages instead of sfxlab's")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="where the lock is")
    arguments = parser.parse_args()
    found = entries((arguments.root / "requirements.lock").read_text())
    project = tomllib.loads((arguments.root / "pyproject.toml").read_text())
    roots = set(map(canonical, arguments.only)) if arguments.only else roots_of(project, arguments.extras)
    sys.stdout.writelines(found[name] for name in sorted(closure(found, roots)))


if __name__ == "__main__":
    main()
