"""The maximum projection, whoever adds to it and whoever dies."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from sfxlab.errors import RunError
from sfxlab.frames import Frame, FrameId
from sfxlab.geometry import Detector
from sfxlab.store.projection import MaximumProjection, join_projections, read_projection


def frames_of(detector: Detector, n: int, dtype: str = "u2") -> list[Frame]:
    rng = np.random.default_rng(0)
    made = []
    for i in range(n):
        data, bad = rng.poisson(5, detector.shape).astype(dtype), (rng.random(detector.shape) < 0.3).astype(np.uint8)
        if dtype == "f4":
            data -= 10
            data[rng.random(detector.shape) < 0.1] = np.nan
        bad[:4, :4], data[:4, :4] = 1, 60
        made.append(Frame(data, bad, 9500.0, detector, FrameId("a.h5", f"//{i}"), i))
    return made


def expected_of(frames: list[Frame]) -> np.ndarray:
    values = np.array([np.where(f.bad == 0, f.data.astype(np.float32), np.nan) for f in frames])
    return np.fmax.reduce(values)


def add(folder: Path, frames: list[Frame]) -> None:
    maximum = MaximumProjection()
    for frame in frames:
        maximum.add(frame)
    maximum.save(folder)


@pytest.mark.parametrize("dtype", ["u2", "i4", "f4", "f2"])
def test_it_is_the_largest_good_value_of_each_pixel(detector: Detector, tmp_path: Path, dtype: str) -> None:
    frames = frames_of(detector, 5, dtype)
    add(tmp_path, frames)
    found = read_projection(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found, expected_of(frames))
    assert np.isnan(found[:4, :4]).all()


def test_without_hits_there_is_none(tmp_path: Path) -> None:
    add(tmp_path, [])
    assert read_projection(tmp_path) is None
    join_projections(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_many_threads_and_repeated_chunks_give_the_same(detector: Detector, tmp_path: Path) -> None:
    frames = frames_of(detector, 12)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: add(tmp_path, frames[3 * (i % 4) : 3 * (i % 4) + 3]), range(8)))
    assert 1 <= len(list((tmp_path / "projection").iterdir())) <= 4
    for _ in range(2):
        found = read_projection(tmp_path)
        assert found is not None
        np.testing.assert_array_equal(found, expected_of(frames))
        join_projections(tmp_path)
        assert len(list((tmp_path / "projection").iterdir())) == 1
    add(tmp_path, frames_of(detector, 13)[12:])  # a session that goes on
    found = read_projection(tmp_path)
    assert found is not None
    np.testing.assert_array_equal(found, expected_of(frames_of(detector, 13)))


def test_joining_stands_being_killed_at_any_moment(
    detector: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = frames_of(detector, 6)
    with ThreadPoolExecutor(3) as pool:
        for i in range(3):
            pool.submit(add, tmp_path, frames[2 * i : 2 * i + 2]).result()
    (tmp_path / "projection" / "other-1.npy").write_bytes(next((tmp_path / "projection").iterdir()).read_bytes())
    expected, calls = expected_of(frames), [0]

    def killed_at(moment: int, name: str) -> None:
        real = getattr(Path, name)

        def call(self: Path, *arguments: object, **options: object) -> object:
            calls[0] += 1
            if calls[0] == moment:
                raise KeyboardInterrupt
            return real(self, *arguments, **options)

        monkeypatch.setattr(Path, name, call)

    for name in ("rename", "unlink"):
        for moment in (1, 2):
            calls[0] = 0
            killed_at(moment, name)
            with contextlib.suppress(KeyboardInterrupt):
                join_projections(tmp_path)
            monkeypatch.undo()
            found = read_projection(tmp_path)
            assert found is not None
            np.testing.assert_array_equal(found, expected)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "projection" / "x.npy"
    path.parent.mkdir()
    path.write_bytes(b"no array")
    with pytest.raises(RunError, match="maximum projection of the run is damaged") as caught:
        read_projection(tmp_path)
    assert caught.value.path == str(path)
