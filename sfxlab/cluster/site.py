"""Site files: where profiles are looked for, and which file each of their values is from."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from sfxlab.cluster.profiles import KINDS, AddressProfile, Profile, SlurmProfile, StepName, fields_of
from sfxlab.errors import ClusterError, suggestion
from sfxlab.typed_toml import checked

SITE_VARIABLE = "SFXLAB_SITE"
"""Environment variable that names a site file."""
_WITHOUT_FILE = ("local", "slurm", "mpi")
DEFAULT = "default"


@dataclass(frozen=True)
class SiteProfile:
    """A profile, and where its values are from."""

    name: str
    profile: Profile
    origins: Mapping[str, str]
    """For each key: a file, "command line", the step, or "default"."""


def site_files() -> list[Path]:
    """Site files that exist. A value in an earlier one counts more than in a later one. Raises `ClusterError`."""
    places = [
        Path("sfxlab-site.toml").absolute(),
        platformdirs.user_config_path("sfxlab") / "site.toml",
        Path("/etc/sfxlab/site.toml"),
    ]
    named = os.environ.get(SITE_VARIABLE)
    if named and not Path(named).is_file():
        raise ClusterError("there is no such site file", path=named, place=SITE_VARIABLE, remedy="unset the variable")
    return [*([Path(named)] if named else []), *(place for place in places if place.is_file())]


def profile_names() -> list[str]:
    """All profiles that can be asked for by name."""
    return list(dict.fromkeys([*_WITHOUT_FILE, *(name for file in site_files() for name in _tables(file))]))


def site_profile(name: str, step: StepName | None = None, **given: Any) -> SiteProfile:
    """The profile of this name, or of a scheduler's address, from the site files.

    Values that are `given` and not None count most, then those of the step. Raises `ClusterError` where there is no
    such profile, or where something in it is wrong.
    """
    files = {file: tables[name] for file in site_files() if name in (tables := _tables(file))}
    is_address = "://" in name
    if not (files or is_address or name in _WITHOUT_FILE):
        known = profile_names()
        raise ClusterError(
            "there is no such profile", found=name, expected=f"{', '.join(known)} or tcp://HOST:PORT",
            remedy=suggestion(name, known) or f"describe it in a site file, or set {SITE_VARIABLE}",
        )  # fmt: skip
    kind = "tcp" if is_address else _kind(name, files)
    model = KINDS[kind]
    values: dict[str, Any] = {"kind": kind} | ({"address": name} if is_address else {})
    origins = dict.fromkeys(model.model_fields, DEFAULT) | ({"address": "command line"} if is_address else {})
    for file, table in reversed(files.items()):
        _check(table, model, name, file)
        values |= table
        origins |= dict.fromkeys(table, str(file))
    stepped = _with_step(checked(values, model, ClusterError), step, origins)
    given = {key: value for key, value in given.items() if value is not None}
    unknown = next((key for key in given if key not in model.model_fields), None)
    if unknown:
        raise _not_for(unknown, given[unknown], kind, name)
    profile = checked(fields_of(stepped) | given, model, ClusterError)
    if isinstance(profile, AddressProfile) and "://" not in profile.address:
        raise ClusterError(
            "the profile needs a scheduler's address", place=f"{name}.address", expected="tcp://HOST:PORT"
        )
    return SiteProfile(name, profile, origins | dict.fromkeys(given, "command line"))


def _check(table: dict[str, Any], model: type[Profile], name: str, file: Path) -> None:
    try:
        checked(table, model, ClusterError, file)
    except ClusterError as error:
        error.place = f"{name}.{error.place}"
        raise


def _kind(name: str, files: Mapping[Path, Mapping[str, Any]]) -> str:
    """The kind of a profile; those that are there without a file are of the kind of their name."""
    file, kind = next(
        ((file, table["kind"]) for file, table in files.items() if "kind" in table),
        (next(iter(files), None), name if name in _WITHOUT_FILE else None),
    )
    if kind not in KINDS or (name in _WITHOUT_FILE and kind != name):
        raise ClusterError(
            "the kind of this profile is missing" if kind is None else "a profile cannot be of this kind",
            path=file, place=f"{name}.kind", found=kind, expected=name if name in _WITHOUT_FILE else ", ".join(KINDS),
            remedy=suggestion(str(kind), KINDS),
        )  # fmt: skip
    return str(kind)


def _with_step(profile: Profile, step: StepName | None, origins: dict[str, str]) -> Profile:
    if step is None or not isinstance(profile, SlurmProfile):
        return profile
    for key in getattr(profile.steps, step).model_dump(exclude_none=True):
        origins[key] = f"{origins['steps']}, steps.{step}"
    return profile.for_step(step)


def _not_for(key: str, value: object, kind: str, name: str) -> ClusterError:
    if key == "workers":
        remedy = {"mpi": "give mpirun more ranks: -n"}.get(kind, "start or stop `dask worker` there")
        return ClusterError("the number of workers is not up to this call", place=name, found=value, remedy=remedy)
    return ClusterError(f"a profile of kind {kind} has no '{key}'", place=name, found=value)


def _tables(file: Path) -> dict[str, dict[str, Any]]:
    """The profiles in a file, unchecked."""
    try:
        tables = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ClusterError("the site file cannot be read", path=file, found=error.strerror) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ClusterError("this is not TOML", path=file, found=str(error)) from error
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ClusterError(
                "a site file holds tables, one for each profile", path=file, place=name, found=table,
                remedy=f"put it below a heading such as [slurm]: {name} = …",
            )  # fmt: skip
    return tables
