from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfxlab.frames import FrameId
from sfxlab.integration import Reflections
from sfxlab.peaks import Peaks
from sfxlab.pipeline import FrameResult
from sfxlab.store import SCHEMAS, results_of, tables_of

MakeResult = Callable[..., FrameResult]


def _assert_same(left: object, right: object) -> None:
    """Equal to the last bit and type, field by field."""
    assert type(left) is type(right)
    if hasattr(left, "__dataclass_fields__"):
        for field in fields(left):
            _assert_same(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            _assert_same(a, b)
    elif isinstance(left, np.ndarray):
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)
    else:
        assert left == right or (math.isnan(left) and math.isnan(right))


@settings(max_examples=40, deadline=None)
@given(
    shapes=st.lists(
        st.tuples(st.integers(0, 5), st.lists(st.integers(0, 4), max_size=3).map(tuple)), min_size=1, max_size=6
    ),
    first=st.integers(0, 10**9),
)
def test_results_come_back_from_tables_exactly_as_they_were(
    make_result: MakeResult, shapes: list[tuple[int, tuple[int, ...]]], first: int
) -> None:
    results = [make_result(first + i, n, reflections) for i, (n, reflections) in enumerate(shapes)]
    back = list(results_of(tables_of(results)))
    assert len(back) == len(results)
    for left, right in zip(results, back, strict=True):
        _assert_same(left, right)


def test_tables_have_their_schemas_with_units_even_when_empty() -> None:
    blank = FrameResult(FrameId("a.h5", "//0"), 0, "failed", "FrameError: cannot be read")
    tables = tables_of([blank])
    for name, schema in SCHEMAS.items():
        assert tables[name].schema.equals(schema, check_metadata=True)
        assert len(tables[name]) == (name == "frames")
    assert SCHEMAS["frames"].field("photon_energy").metadata == {b"unit": b"eV"}
    assert next(results_of(tables)).reason == "FrameError: cannot be read"


def test_peaks_and_reflections_have_a_column_for_every_field() -> None:
    assert SCHEMAS["peaks"].names == ["frame", *(field.name for field in fields(Peaks))]
    assert SCHEMAS["reflections"].names == ["frame", "crystal", *(field.name for field in fields(Reflections))]


def test_columns_of_the_basis_are_a_star_b_star_and_c_star(make_result: MakeResult) -> None:
    result = make_result(3)
    row = tables_of([result])["crystals"].to_pylist()[0]
    for axis, hkl in zip("abc", np.eye(3, dtype=int), strict=True):
        q = result.crystals[0].q(hkl[None, :])[0]
        assert [row[f"{axis}star_{component}"] for component in "xyz"] == pytest.approx(q, abs=0)


def test_numbers_that_are_not_known_are_nan_and_not_null(make_result: MakeResult) -> None:
    frames = tables_of([make_result(0, 0, ()), make_result(1)])["frames"]
    assert frames["peak_resolution"].null_count == 0
    assert math.isnan(frames["peak_resolution"][0].as_py())


def test_peak_resolution_is_the_98th_percentile(make_result: MakeResult) -> None:
    result = make_result(0)
    peaks = replace(make_result(0, 101).peaks, resolution=np.linspace(0, 1, 101, dtype=np.float32))
    frames = tables_of([replace(result, peaks=peaks)])["frames"]
    assert frames["peak_resolution"][0].as_py() == pytest.approx(0.98)


def test_counts_of_saturated_reflections_are_kept(make_result: MakeResult) -> None:
    result = make_result(0, 3, (9,))
    row = tables_of([result])["crystals"].to_pylist()[0]
    assert row["n_reflections"] == 9
    assert row["n_saturated"] == int(result.reflections[0].saturated.sum())


def test_a_file_name_that_is_not_utf8_is_spelled_out(make_result: MakeResult) -> None:
    odd = b"/data/r\xf6ntgen.h5".decode("utf-8", "surrogateescape")
    result = replace(make_result(0), id=FrameId(odd, "//0"))
    assert tables_of([result])["frames"]["path"][0].as_py() == "/data/r\\udcf6ntgen.h5"
