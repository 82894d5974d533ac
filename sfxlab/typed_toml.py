"""TOML files that people write, checked against a pydantic model; errors name the file, the key and what to do."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from pydantic import BaseModel, ValidationError

from sfxlab.errors import SfxlabError, suggestion

_Model = TypeVar("_Model", bound=BaseModel)


def read_typed(path: str | Path, model: type[_Model], error: type[SfxlabError]) -> _Model:
    """The file as `model`. Raises `error` where it cannot be read, is no TOML, or has a wrong or unknown key."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
        values = tomllib.loads(text)
    except OSError as problem:
        raise error("the file cannot be read", path=path, found=problem.strerror) from problem
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise error("this is not TOML", path=path, found=str(problem)) from problem
    return checked(values, model, error, path)


def checked(
    values: dict[str, Any], model: type[_Model], error: type[SfxlabError], path: str | Path | None = None
) -> _Model:
    """Nested dictionaries as `model`; `error` names the first wrong key, and what an unknown one may have meant."""
    try:
        return model.model_validate(values)
    except ValidationError as problem:
        problems = problem.errors()
    # A key that is spelt wrongly is missing, too.
    first = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = list(dict.fromkeys(_fields_at(model, first["loc"][:-1])))
        raise error(
            f"unknown key '{key}'", path=path, place=key, expected=", ".join(known),
            remedy=suggestion(str(first["loc"][-1]), known),
        )  # fmt: skip
    if first["type"] == "missing":
        raise error(f"'{key}' is missing", path=path, place=key, remedy="give it a value")
    expected = first["msg"].removeprefix("Value error, ")
    if isinstance(found := first.get("input"), dict):
        # What is in a table contradicts itself; all of it would say less than the sentence.
        raise error(expected, path=path, place=key or None)
    raise error(f"wrong value for '{key}'", path=path, place=key, found=found, expected=expected)


def _fields_at(model: type[BaseModel], location: tuple[int | str, ...]) -> Iterator[str]:
    """Names of the fields that the models at this place have; a place in a dictionary or list is any key of it."""
    if not location:
        yield from model.model_fields
        return
    field = model.model_fields.get(str(location[0]))
    for inner, deeper in _models_in(field.annotation if field else None):
        yield from _fields_at(inner, location[1 + deeper :])


def _models_in(annotation: Any, deeper: int = 0) -> Iterator[tuple[type[BaseModel], int]]:
    """The models that a type mentions, each with the number of keys or indices that lead to it."""
    container = get_origin(annotation) in (dict, list, tuple)
    if isinstance(annotation, type) and not container and issubclass(annotation, BaseModel):
        yield annotation, deeper
    for argument in get_args(annotation):
        yield from _models_in(argument, deeper + container)
