"""`recipe`: parameters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sfxlab.cli.output import PATH, json_option, print_json
from sfxlab.errors import StreamError

if TYPE_CHECKING:
    from sfxlab.recipe import Recipe


@click.command("recipe")
@click.option("--recipe", "recipe_path", type=PATH, help="Parameters to begin with, TOML. [default: all defaults]")
@click.option("--from-stream", "stream", type=PATH, help="Take those with which CrystFEL made this stream.")
@json_option
def recipe_command(recipe_path: Path | None, stream: Path | None, as_json: bool) -> None:
    """Print all parameters as TOML, each with what it means.

    \b
    Examples:
      sfxlab recipe > my.toml
      sfxlab recipe --from-stream indexamajig.stream > my.toml
    """
    from sfxlab.recipe import Recipe

    if recipe_path and stream:
        raise click.UsageError("--recipe and --from-stream exclude each other")
    recipe = _of_stream(stream) if stream else Recipe.read(recipe_path) if recipe_path else Recipe()
    print_json(recipe.model_dump(exclude_none=True)) if as_json else click.echo("\n".join(_described(recipe)))


def _of_stream(path: Path) -> Recipe:
    from sfxlab.interop.indexamajig import recipe_from_indexamajig
    from sfxlab.interop.stream_reader import read_stream

    stream = read_stream(path)
    if not stream.command:
        raise StreamError("the stream does not say with which options it was made", path=path, place="header")
    recipe = recipe_from_indexamajig(stream.command)
    return recipe if stream.cell is None else recipe.with_cell(stream.cell)


def _described(recipe: Recipe) -> Iterator[str]:
    """The lines of the TOML, before each parameter a comment with its description."""
    fields = type(recipe).model_fields
    for line in recipe.to_toml().splitlines():
        if line.startswith("["):
            fields = _fields(line.strip("[]"))
        name, equals, _ = line.partition(" = ")
        if equals and name in fields and fields[name].description:
            yield f"# {fields[name].description}"
        yield line


def _fields(table: str) -> dict[str, Any]:
    from sfxlab.recipe import CellRecipe, Recipe

    section: Any = Recipe
    for name in table.split("."):
        section = CellRecipe if name == "cell" else section.model_fields[name].annotation
    return dict(section.model_fields)
