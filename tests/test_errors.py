"""How errors read, and that they survive the way from a worker."""

from __future__ import annotations

import pickle
from pathlib import Path

import cloudpickle
import pytest

from sfxlab import errors
from sfxlab.errors import GeometryError, OutputExistsError, RunError, SfxlabError, suggestion

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, SfxlabError)]


def test_an_error_says_where_what_and_what_to_do() -> None:
    error = GeometryError(
        "unknown key 'cornr_x'", path=Path("jf.geom"), place="line 12", found="-3.5", expected="corner_x, corner_y",
        remedy=suggestion("cornr_x", ["corner_x", "corner_y"]),
    )  # fmt: skip
    assert str(error).splitlines() == [
        "jf.geom, line 12: unknown key 'cornr_x'",
        "  found:    -3.5",
        "  expected: corner_x, corner_y",
        "  to do:    did you mean 'corner_x'?",
    ]


@pytest.mark.parametrize(
    ("where", "first"),
    [({}, "too cold"), ({"path": "a.h5"}, "a.h5: too cold"), ({"place": "line 3"}, "line 3: too cold")],
)
def test_what_is_not_known_is_left_out(where: dict[str, str], first: str) -> None:
    assert str(SfxlabError("too cold", **where)) == first


def test_a_value_of_zero_is_shown() -> None:
    assert str(SfxlabError("too few", found=0)) == "too few\n  found:    0"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pickler", [pickle, cloudpickle])
def test_errors_of_every_kind_travel_whole(kind: type[SfxlabError], pickler: object) -> None:
    error = kind("wrong", path="a.h5", place="/data", found=[1, 2], expected="three", remedy="add one")
    again = pickle.loads(pickler.dumps(error))  # type: ignore[attr-defined]
    assert type(again) is kind
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_an_output_that_exists_can_be_caught_as_an_error_of_runs() -> None:
    with pytest.raises(RunError):
        raise OutputExistsError("in the way")


@pytest.mark.parametrize(
    ("word", "hint"), [("proces", "did you mean 'process'?"), ("PROCESS", None), ("xyzzy", None), ("", None)]
)
def test_only_words_that_are_alike_are_suggested(word: str, hint: str | None) -> None:
    assert suggestion(word, iter(["process", "peaks"])) == hint
