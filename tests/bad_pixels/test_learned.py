from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from sfxlab.bad_pixels import LearnedMask, read_learned_mask, with_learned_mask
from sfxlab.errors import RunError
from sfxlab.frames import open_frames
from sfxlab.geometry import parse_geometry


def mask_of(shape: tuple[int, int] = (8, 6)) -> LearnedMask:
    kinds = np.zeros(shape, dtype=np.uint8)
    kinds[1, 2], kinds[3, 4], kinds[5, 0], kinds[7, 5] = 1, 2, 4, 8
    counts = np.full(shape, 30, dtype=np.uint16)
    return LearnedMask(kinds, counts, counts // 2, 30, ("one thing to know",))


def test_a_mask_is_read_as_it_was_written(tmp_path: Path) -> None:
    before = mask_of()
    before.save(tmp_path / "mask.h5")
    after = read_learned_mask(tmp_path / "mask.h5")
    for name in ("kinds", "seen", "stood_out"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))
    assert (after.frames, after.remarks, after.counts) == (30, ("one thing to know",), before.counts)
    assert str(after) == "1 hot, 1 dead, 1 noisy, 1 shadowed, learned from 30 frames"
    assert list(tmp_path.iterdir()) == [tmp_path / "mask.h5"]


def test_what_is_no_mask_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["mask"] = np.zeros(3)
    with pytest.raises(RunError, match="no learned mask"):
        read_learned_mask(tmp_path / "other.h5")
    (tmp_path / "text.h5").write_text("text")
    with pytest.raises(RunError, match="cannot be read"):
        read_learned_mask(tmp_path / "text.h5")


def test_a_geometry_file_takes_the_mask(make_cxi: Callable[..., Path], two_panels: str, tmp_path: Path) -> None:
    mask_of().save(tmp_path / "mask.h5")
    lines = f"mask7_file = {tmp_path}/mask.h5\nmask7_data = /mask\nmask7_badbits = 0x0f\n"
    frames = open_frames(make_cxi(), parse_geometry(two_panels.replace("\nleft/min_fs", f"\n{lines}left/min_fs")))
    np.testing.assert_array_equal(frames[0].bad, mask_of().bad)


def test_frames_get_the_learned_pixels_and_still_share_their_masks(
    make_cxi: Callable[..., Path], two_panels: str, tmp_path: Path
) -> None:
    mask = np.zeros((8, 6), dtype=np.uint16)
    mask[0, 0] = 1
    frames = open_frames(make_cxi(mask=mask), parse_geometry(two_panels))
    mask_of().save(tmp_path / "mask.h5")
    masked = with_learned_mask(frames, tmp_path / "mask.h5")
    first, last = masked[0], masked[3]
    np.testing.assert_array_equal(first.bad, frames[0].bad | mask_of().bad)
    assert first.bad is last.bad
    assert not first.bad.flags.writeable
    assert not frames[0].bad[1, 2]
    for position, frame in enumerate(masked):
        assert (frame.index, frame.id) == (position, frames.identity(position))
        np.testing.assert_array_equal(frame.data, frames[position].data)
    assert masked[2:][0].index == 2
    assert (masked.paths, masked.files, masked.geometry_text) == (frames.paths, frames.files, frames.geometry_text)
    travelled = pickle.loads(pickle.dumps(masked[1:3]))
    np.testing.assert_array_equal(travelled[0].bad, first.bad)
    assert len(pickle.dumps(masked)) < len(pickle.dumps(frames)) + 1000


def test_without_a_mask_frames_are_themselves(make_cxi: Callable[..., Path], two_panels: str, tmp_path: Path) -> None:
    frames = open_frames(make_cxi(), parse_geometry(two_panels))
    assert with_learned_mask(frames, tmp_path / "none.h5") is frames


def test_the_mask_of_another_detector_is_refused(
    make_cxi: Callable[..., Path], two_panels: str, tmp_path: Path
) -> None:
    mask_of((8, 7)).save(tmp_path / "mask.h5")
    with pytest.raises(RunError, match="another detector"):
        with_learned_mask(open_frames(make_cxi(), parse_geometry(two_panels)), tmp_path / "mask.h5")[0]
