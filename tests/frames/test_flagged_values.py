import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfxlab.frames.flagged_values import FlaggedWindow, first_flagged_row, mark_flagged, with_flagged
from sfxlab.geometry.geometry import Flag

ALL = slice(0, 6), slice(0, 9)


def flagged(data: np.ndarray, flags: tuple[Flag, ...]) -> np.ndarray:
    """Pixels that a flag names or that are not finite, in double precision."""
    values = data.astype(np.float64)
    found = ~np.isfinite(values)
    for flag in flags:
        threshold = np.float64(data.dtype.type(flag.value)) if data.dtype.kind == "f" else flag.value
        found |= {"lessthan": np.less, "morethan": np.greater, "equal": np.equal}[flag.kind](values, threshold)
    return found


@settings(deadline=None)  # the first pixels of a type compile the kernels
@given(
    dtype=st.sampled_from(["u1", "u2", "i2", "i4", "u4", "f2", "f4", "f8"]),
    kinds=st.lists(st.sampled_from(["lessthan", "morethan", "equal"]), max_size=3),
    thresholds=st.lists(
        st.one_of(st.integers(-3, 260), st.sampled_from([0.5, 2.5, -1e6, 1e6, float("inf"), -float("inf")])),
        min_size=3, max_size=3,
    ),
    seed=st.integers(0, 1000),
)  # fmt: skip
def test_pixels_are_marked_as_the_flags_say(dtype, kinds, thresholds, seed):
    data = np.random.default_rng(seed).integers(0, 7, (6, 9)).astype(dtype)
    if dtype.startswith("f"):
        data[0, :3] = np.nan, np.inf, -np.inf
    if dtype == "f2":
        thresholds = [t if abs(t) < 1e5 else 7.0 for t in thresholds]
    flags = tuple(Flag(kind, float(value)) for kind, value in zip(kinds, thresholds, strict=False))
    bad = np.zeros((6, 9), dtype=np.uint8)
    bad[5, 5] = 1
    expected = flagged(data, flags)
    expected[5, 5] = True
    assert (with_flagged(data, bad, [FlaggedWindow(*ALL, flags)]) == expected).all()
    assert bad.sum() == 1


def test_a_map_of_bad_pixels_is_shared_where_nothing_is_added_to_it():
    data, bad = np.zeros((6, 9), dtype=np.float32), np.zeros((6, 9), dtype=np.uint8)
    window = FlaggedWindow(*ALL, (Flag("morethan", 3.0),))
    assert with_flagged(data, bad, [window]) is bad
    data[2, 2] = 4
    assert np.argwhere(with_flagged(data, bad, [window])).tolist() == [[2, 2]]
    bad[2, 2] = 1
    assert with_flagged(data, bad, [window]) is bad


def test_flags_of_a_window_leave_the_rest_alone():
    data = np.full((6, 9), 5, dtype=np.uint16)
    windows = [FlaggedWindow(slice(1, 3), slice(4, 6), (Flag("equal", 5.0), Flag("lessthan", 2.0)))]
    marked = with_flagged(data, np.zeros((6, 9), dtype=np.uint8), windows)
    assert np.argwhere(marked).tolist() == [[1, 4], [1, 5], [2, 4], [2, 5]]


@pytest.mark.parametrize("value", [1e300, float("inf")])
def test_thresholds_beyond_a_pixel_type_hold_for_all_or_none(value):
    data = np.ones((6, 9), dtype=np.float32)
    bad = np.zeros((6, 9), dtype=np.uint8)
    assert with_flagged(data, bad, [FlaggedWindow(*ALL, (Flag("lessthan", value),))]).all()
    assert with_flagged(data, bad, [FlaggedWindow(*ALL, (Flag("morethan", value),))]) is bad
    assert with_flagged(data, bad, [FlaggedWindow(*ALL, (Flag("equal", value),))]) is bad


@pytest.mark.parametrize("equal", [(), (0.5,), (0.5, -0.25)])
def test_kernels_agree_with_numpy(equal):
    random = np.random.default_rng(7)
    data = (random.integers(-8, 9, (40, 9)) / 4).astype(np.float32)
    data[3, 3] = np.nan
    low, high, values = np.float32(-1.5), np.float32(1.5), np.array(equal, dtype=np.float32)
    flagged = ~((data >= low) & (data <= high)) | np.isin(data, values)
    for fraction in (0.0, 0.3, 1.0):
        bad = np.where(random.random(data.shape) < fraction, 1, 0).astype(np.uint8)
        bad[:20] |= flagged[:20]
        rows = np.flatnonzero((flagged & (bad == 0)).any(axis=1))
        assert first_flagged_row(data, bad, low, high, values) == (rows[0] if len(rows) else -1)
        marked = bad.copy()
        mark_flagged(data, marked, low, high, values)
        assert (marked == (bad | flagged)).all()
