import gc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from sfxlab.frames import open_frames
from sfxlab.frames.buffers import Buffers
from sfxlab.geometry import parse_geometry

MEGABYTE = 2**20


def address(array: np.ndarray) -> int:
    return array.__array_interface__["data"][0]


def kept(buffers: Buffers) -> int:
    """Bytes that wait to be used again."""
    return sum(len(memory) for memory in buffers._free)


@pytest.mark.parametrize("dtype", ["u1", "u2", ">i4", "f8"])
def test_arrays_are_like_those_of_numpy(dtype):
    buffers = Buffers(10 * MEGABYTE)
    for shape in ((3, 5), (1000, 700), (0, 4), ()):
        array = buffers.array(shape, dtype)
        assert (array.shape, array.dtype) == (shape, np.dtype(dtype))
        assert all((array.flags.c_contiguous, array.flags.aligned, array.flags.writeable))


def test_memory_is_used_again_once_the_last_view_is_gone():
    buffers = Buffers(10 * MEGABYTE)
    array = buffers.array((1024, 1024), "u1")
    first, view = address(array), array[100:, ::2].T
    del array
    assert kept(buffers) == 0
    assert address(buffers.array((1024, 1024), "u1")) != first
    del view
    again = {address(array) for array in [buffers.array((256, 1024), "f4") for _ in range(2)]}
    assert first in again


def test_arrays_of_about_the_same_length_share_memory_in_turn():
    buffers = Buffers(10 * MEGABYTE)
    assert len({address(buffers.array((MEGABYTE - 1000 * i,), "u1")) for i in range(20)}) <= 2


def test_no_more_is_kept_than_the_limit_and_that_is_what_came_last():
    buffers = Buffers(4 * MEGABYTE)
    for size in (1, 1.5):
        arrays = [buffers.array((int(size * MEGABYTE),), "u1") for _ in range(10)]
        assert len({address(array) for array in arrays}) == 10
        arrays.clear()
        assert 0 < kept(buffers) <= 4 * MEGABYTE
    assert {len(memory) for memory in buffers._free} == {3 * MEGABYTE // 2}
    del arrays
    assert buffers.array((5 * MEGABYTE,), "u1").nbytes == 5 * MEGABYTE
    gc.collect()
    assert kept(buffers) <= 4 * MEGABYTE


def test_no_two_threads_have_the_same_memory():
    buffers = Buffers(20 * MEGABYTE)

    def fill(number: int) -> bool:
        held = []
        for turn in range(50):
            array = buffers.array((300_000 + 1000 * (turn % 3),), "u2")
            array[:] = number
            held = [*held[-2:], array]
            if not all((other == number).all() for other in held):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(fill, range(8)))


def test_a_frame_that_is_kept_keeps_its_pixels(make_cxi, two_panels):
    rows = 600
    data = np.random.default_rng(1).integers(0, 999, (6, rows, 600), dtype=np.uint16)
    text = two_panels.replace("max_ss = 7", f"max_ss = {rows - 1}").replace("fs = 2", "fs = 299")
    text = text.replace("min_fs = 3", "min_fs = 300").replace("max_fs = 5", "max_fs = 599")
    path = make_cxi(frames=data, mask=np.zeros((rows, 600), np.uint16), chunks=(1, rows, 600), compression="gzip")
    frames = open_frames(path, parse_geometry(text))
    row = frames[4].data[7]
    read = [frames[i % 6] for i in range(12)]
    assert all((frame.data == data[i % 6]).all() for i, frame in enumerate(read))
    assert (row == data[4, 7]).all()
