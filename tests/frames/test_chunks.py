import itertools
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import h5py
import hdf5plugin
import numpy as np
import pytest

from sfxlab.errors import FrameError
from sfxlab.frames import open_frames
from sfxlab.frames.checksums import fletcher_sums
from sfxlab.frames.chunks import StoredArray
from sfxlab.frames.decompression import decompression, end_of_blocks, unshuffle
from sfxlab.geometry import parse_geometry

SHAPE = (3, 37, 53)
CODECS = {
    "bitshuffle-lz4": dict(hdf5plugin.Bitshuffle(cname="lz4")),
    "bitshuffle-lz4, small blocks": dict(hdf5plugin.Bitshuffle(nelems=64, cname="lz4")),
    "bitshuffle-zstd": dict(hdf5plugin.Bitshuffle(cname="zstd")),
    "bitshuffle": dict(hdf5plugin.Bitshuffle(cname="none")),
    "lz4": dict(hdf5plugin.LZ4()),
    "lz4, small blocks": dict(hdf5plugin.LZ4(nbytes=256)),
    "shuffle, lz4": {**hdf5plugin.LZ4(), "shuffle": True},
    "zstd": dict(hdf5plugin.Zstd()),
    "gzip": {"compression": "gzip"},
    "shuffle, gzip": {"compression": "gzip", "shuffle": True},
    "shuffle": {"shuffle": True},
    "checksum": {"fletcher32": True},
    "bitshuffle-lz4, checksum": {**hdf5plugin.Bitshuffle(cname="lz4"), "fletcher32": True},
    "shuffle, gzip, checksum": {"compression": "gzip", "shuffle": True, "fletcher32": True},
}
LEFT_TO_HDF5 = {
    "none": {},
    "blosc": dict(hdf5plugin.Blosc()),
    "lzf": {"compression": "lzf", "shuffle": True},
    "blosc, checksum": {**hdf5plugin.Blosc(), "fletcher32": True},
    "scaled": {"scaleoffset": 0},
}


def pixels(dtype: str, shape: tuple[int, ...] = SHAPE, seed: int = 1) -> np.ndarray:
    """Counts with spots and extremes of the type."""
    random = np.random.default_rng(seed)
    values = random.poisson(1.5, shape).astype(dtype)
    values.reshape(-1)[:: values.size // 7] = 1 if values.dtype.kind == "b" else 117
    if values.dtype.kind == "f":
        values[0, 3, 4:7] = np.nan, np.inf, -1.5e30
    elif values.dtype.kind in "iu":
        values[1, 5, :2] = np.iinfo(values.dtype).min, np.iinfo(values.dtype).max
    return values


@pytest.fixture
def stored(tmp_path):
    """Writes an array and opens it: `stored(values, chunks, **creation)`."""
    numbers = itertools.count()
    files = []

    def write(values: np.ndarray, chunks: tuple[int, ...] | None, **creation) -> StoredArray:
        path = tmp_path / f"{next(numbers)}.h5"
        with h5py.File(path, "w") as file:
            file.create_dataset("d", data=values, chunks=chunks, **creation)
        files.append(h5py.File(path))
        return StoredArray(files[-1]["d"])

    yield write
    for file in files:
        file.close()


def decodes(array: StoredArray) -> bool:
    """Whether chunks are decoded here, not by HDF5."""
    return array._decompression is not None


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", ["u1", "u2", ">u2", "i4", "u4", "f4", ">f4", "f8", "?"])
def test_every_format_gives_what_h5py_gives(stored, codec, dtype):
    values = pixels(dtype)
    for chunks in ((1, 37, 53), (1, 16, 24)):
        array = stored(values, chunks, **CODECS[codec])
        assert decodes(array)
        for frame in range(3):
            part = array.part((frame, slice(0, 37), slice(0, 53)))
            assert part.dtype == values.dtype
            np.testing.assert_array_equal(part, array.dataset[frame])


@pytest.mark.parametrize("codec", LEFT_TO_HDF5)
def test_other_formats_are_left_to_hdf5(stored, codec):
    values = np.abs(pixels("i4")) % 1000
    array = stored(values, (1, 37, 53) if codec != "none" else None, **LEFT_TO_HDF5[codec])
    assert not decodes(array)
    assert (array.part((2, slice(0, 37), slice(0, 53))) == values[2]).all()


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 15, 63, 64, 65, 4095, 4096, 4097, 4104, 12345])
def test_sizes_that_are_no_multiple_of_a_block_are_whole(stored, size):
    values = np.random.default_rng(size).integers(0, 2**16, (2, size), dtype=np.uint16)
    for codec in ("bitshuffle-lz4", "bitshuffle", "lz4, small blocks", "shuffle, gzip"):
        assert (stored(values, (1, size), **CODECS[codec]).part((1, slice(0, size))) == values[1]).all()


@pytest.mark.parametrize(
    "selection",
    [np.s_[1, 0:37, 0:53], np.s_[2, 5:30, 7:9], np.s_[0, 16:32, 24:48], np.s_[1, 3, 0:53], np.s_[0:3, 7, 9:50]],
)
@pytest.mark.parametrize("chunks", [(1, 16, 24), (1, 37, 53), (1, 1, 53), (2, 16, 24), (1, 100, 60)])
def test_parts_are_cut_from_the_chunks_they_touch(stored, selection, chunks):
    values = pixels("u2")
    array = stored(values, chunks, maxshape=(None, None, None), **CODECS["bitshuffle-lz4"])
    assert (array.part(selection) == values[selection]).all()


def test_pixels_are_converted_to_the_type_asked_for_and_to_strided_arrays(stored):
    values = pixels(">i2")
    array = stored(values, (1, 16, 24), **CODECS["bitshuffle-lz4"])
    slab = np.zeros((40, 60), dtype=np.float32)
    array.read((1, slice(0, 37), slice(0, 53)), slab[2:39, 3:56])
    assert (slab[2:39, 3:56] == values[1]).all()
    assert slab.sum() == values[1].sum(dtype=float)


def test_chunks_that_touch_nothing_wanted_are_neither_read_nor_left_as_they_were(stored, monkeypatch):
    values = pixels("u2") + np.uint16(1)
    array = stored(values, (1, 16, 24), **CODECS["bitshuffle-lz4"])
    read = []
    monkeypatch.setattr(array, "_stored", lambda start: read.append(start) or StoredArray._stored(array, start))
    out = np.full((37, 53), 7, dtype=np.uint16)
    array.read((2, slice(0, 37), slice(0, 53)), out, wanted=(((3, 9), (5, 10)), ((17, 37), (40, 50))))
    assert read == [(2, 0, 0), (2, 16, 24), (2, 16, 48), (2, 32, 24), (2, 32, 48)]
    touched = np.zeros((37, 53), dtype=bool)
    for _, row, column in read:
        touched[row : row + 16, column : column + 24] = True
    assert (out == np.where(touched, values[2], 0)).all()


def test_only_chunks_with_panels_are_read(make_cxi, two_panels):
    data = np.arange(1, 1 + 2 * 8 * 6, dtype=np.uint16).reshape(2, 8, 6)
    path = make_cxi(frames=data, chunks=(1, 4, 3), **CODECS["bitshuffle-lz4"])
    with h5py.File(path, "r+") as file:
        file["/entry_1/data_1/data"].id.write_direct_chunk((1, 0, 0), b"damaged")
    text = two_panels.replace("left/max_ss = 7", "left/max_ss = 6").replace("left/min_ss = 0", "left/min_ss = 4")
    frame = open_frames(path, parse_geometry(text))[1]
    assert (frame.data[4:7] == data[1, 4:7]).all()
    assert (frame.data[:, 3:] == data[1, :, 3:]).all()
    assert frame.bad[:4, :3].all()


def test_chunks_never_written_hold_the_fill_value(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        d = file.create_dataset("d", (2, 8, 6), "i4", chunks=(1, 4, 6), fillvalue=-7, **CODECS["bitshuffle-lz4"])
        d[0, :4] = 3
    with h5py.File(tmp_path / "a.h5") as file:
        array = StoredArray(file["d"])
        assert (array.part(np.s_[0, 0:8, 0:6]) == np.repeat([3, -7], 4)[:, None]).all()
        assert (array.part(np.s_[1, 0:8, 0:6]) == -7).all()


def test_a_chunk_that_was_written_without_its_filters_is_read(tmp_path):
    values = pixels("u2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        d = file.create_dataset("d", data=values, chunks=(1, 37, 53), compression="gzip", shuffle=True)
        d.id.write_direct_chunk((1, 0, 0), values[1].tobytes(), filter_mask=0b11)
        d.id.write_direct_chunk((2, 0, 0), zlib.compress(values[2].tobytes()), filter_mask=0b01)
    with h5py.File(tmp_path / "a.h5") as file:
        array = StoredArray(file["d"])
        for frame in range(3):
            assert (array.part(np.s_[frame, 0:37, 0:53]) == values[frame]).all()
            assert (file["d"][frame] == values[frame]).all()


def test_a_part_outside_the_dataset_is_an_error_and_no_padding(stored):
    array = stored(pixels("u2"), (1, 64, 64), maxshape=(None, None, None), **CODECS["bitshuffle-lz4"])
    with pytest.raises((ValueError, TypeError)):
        array.part(np.s_[0, 0:60, 0:53])
    with pytest.raises((ValueError, IndexError)):
        array.part(np.s_[3, 0:37, 0:53])


@pytest.mark.parametrize("codec", [name for name in CODECS if name != "shuffle"])
def test_a_truncated_chunk_fails_its_frame_with_words(make_cxi, two_panels, codec):
    path = make_cxi(frames=np.arange(192, dtype=np.uint16).reshape(4, 8, 6), chunks=(1, 8, 6), **CODECS[codec])
    with h5py.File(path, "r+") as file:
        dataset = file["/entry_1/data_1/data"].id
        dataset.write_direct_chunk((2, 0, 0), dataset.read_direct_chunk((2, 0, 0))[1][:-20])
    frames = open_frames(path, parse_geometry(two_panels))
    with pytest.raises(
        FrameError, match=r"frames\.cxi, frame //2: the frame cannot be read\n  found: +a damaged chunk"
    ):
        frames[2]
    assert frames[3].index == 3


def test_no_damage_to_a_chunk_writes_outside_its_pixels(tmp_path):
    """In a process of its own, because what is tested for would end it."""
    script = textwrap.dedent(
        """
        import sys
        import h5py, hdf5plugin
        import numpy as np
        from sfxlab.frames.chunks import StoredArray

        codecs = {
            "bitshuffle": hdf5plugin.Bitshuffle(nelems=64, cname="lz4"),
            "zstd in it": hdf5plugin.Bitshuffle(cname="zstd"),
            "lz4": hdf5plugin.LZ4(nbytes=512),
            "zstd": hdf5plugin.Zstd(),
            "gzip": {"compression": "gzip", "shuffle": True},
        }
        random = np.random.default_rng(5)
        guard = 4096
        with h5py.File("fuzz.h5", "w", driver="core", backing_store=False) as file:
            for name, codec in codecs.items():
                values = random.poisson(1.0, (1, 61, 47)).astype("u2")
                dataset = file.create_dataset(name, data=values, chunks=(1, 61, 47), **codec)
                array, (skipped, chunk) = StoredArray(dataset), dataset.id.read_direct_chunk((0, 0, 0))
                size, same = 61 * 47 * 2, 0
                for trial in range(1500):
                    damaged = bytearray(chunk)
                    for _ in range(random.integers(1, 4)):
                        bit = random.integers(0, 8 * (len(chunk) if trial % 2 else 40))
                        damaged[bit // 8] ^= 1 << bit % 8
                    if trial % 5 == 0:
                        del damaged[random.integers(0, len(chunk)) :]
                    around = np.full(size + 2 * guard, 0xA5, np.uint8)
                    try:
                        array._decompression.decode(bytes(damaged), skipped, around[guard : guard + size])
                    except ValueError as error:
                        assert "damaged chunk" in str(error)
                    else:
                        same += 1
                    assert (around[:guard] == 0xA5).all() and (around[guard + size :] == 0xA5).all(), (name, trial)
                print(name, same)
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=200, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    passed = {line.rsplit(" ", 1)[0]: int(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()}
    assert len(passed) == 5
    assert passed["gzip"] == 0
    assert all(count < 1200 for count in passed.values())


def test_threads_read_the_same_frames_from_one_source(make_cxi, two_panels):
    data = np.random.default_rng(3).integers(0, 999, (40, 8, 6), dtype=np.uint16)
    path = make_cxi(frames=data, chunks=(1, 8, 6), **CODECS["bitshuffle-lz4"])
    frames = open_frames(path, parse_geometry("flag_morethan = 900\n" + two_panels))
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda i: frames[i % 40], range(200)))
    for i, frame in enumerate(read):
        assert (frame.data == data[i % 40]).all()
        assert (frame.bad == (data[i % 40] > 900)).all()


def test_two_threads_decompress_at_the_same_time(stored):
    """One thread waits inside a chunk until another one has read a chunk from beginning to end."""
    array = stored(pixels("u2"), (1, 37, 53), **CODECS["bitshuffle-lz4"])
    inside, done = threading.Event(), threading.Event()
    known = array._decompression
    assert known is not None

    def wait_inside(stored, out, item_size):
        if threading.current_thread().name == "first":
            inside.set()
            assert done.wait(30)
        known.decoders[0](stored, out, item_size)

    array.__dict__["_decompression"] = type(known)((wait_inside,), known.item_size)
    results = []
    first = threading.Thread(target=lambda: results.append(array.part(np.s_[0, 0:37, 0:53])), name="first")
    first.start()
    assert inside.wait(30)
    second = array.part(np.s_[1, 0:37, 0:53])
    done.set()
    first.join()
    assert (second == pixels("u2")[1]).all()
    assert (results[0] == pixels("u2")[0]).all()


def test_sources_pickle_after_they_have_been_read(make_cxi, two_panels):
    path = make_cxi(chunks=(1, 8, 6), **CODECS["bitshuffle-lz4"])
    frames = open_frames(path, parse_geometry(two_panels))
    before = len(pickle.dumps(frames))
    first = frames[1]
    packed = pickle.dumps(frames)
    assert len(packed) == before
    assert (pickle.loads(packed)[1].data == first.data).all()


def test_filters_in_an_unusual_order_are_not_decoded_here():
    gzip, shuffle, lz4 = (1, (4,)), (2, (2,)), (32004, (0,))
    assert decompression([shuffle, gzip], 2) is not None
    for filters in ([], [gzip, shuffle], [gzip, lz4], [shuffle, shuffle], [shuffle, gzip, lz4], [(2, (4,)), gzip]):
        assert decompression(filters, 2) is None


def test_hdf5_decodes_where_a_library_is_not_to_be_had(stored, monkeypatch):
    monkeypatch.setattr("sfxlab.frames.decompression._library", lambda name: None)
    values = pixels("u2")
    for codec in ("bitshuffle-lz4", "bitshuffle", "lz4", "zstd"):
        array = stored(values, (1, 37, 53), **CODECS[codec])
        assert not decodes(array)
        assert (array.part(np.s_[1, 0:37, 0:53]) == values[1]).all()


def test_shuffle_is_undone_for_any_item_size():
    for size in (1, 2, 3, 4, 8):
        values = np.random.default_rng(size).integers(0, 256, 30 * size, dtype=np.uint8)
        out = np.empty_like(values)
        unshuffle(values.reshape(30, size).T.copy().reshape(-1), out, size)
        assert (out == values).all()


def test_lengths_of_blocks_are_followed_to_their_end_only():
    chain = np.frombuffer(b"\0\0\0\2ab\0\0\0\1c", dtype=np.uint8)
    assert end_of_blocks(chain, 0, 2) == 11
    assert end_of_blocks(chain, 0, 3) == -1
    assert end_of_blocks(chain[:-1], 0, 2) == -1
    assert end_of_blocks(np.full(9, 255, dtype=np.uint8), 0, 1) == -1


SEVERAL = [(3, 37, 53), (2, 16, 24), (4, 37, 20)]
"""Chunks of several frames."""


@pytest.mark.parametrize("codec", ["bitshuffle-lz4", "shuffle, gzip", "checksum"])
@pytest.mark.parametrize("chunks", SEVERAL)
def test_chunks_of_several_frames_are_decoded_once_and_by_ourselves(stored, monkeypatch, chunks, codec):
    values = pixels("i4", (9, 37, 53))
    array = stored(values, chunks, maxshape=(None, None, None), **CODECS[codec])
    read = []
    monkeypatch.setattr(array, "_stored", lambda start: read.append(start) or StoredArray._stored(array, start))
    for frame in range(9):
        assert (array.part((frame, slice(0, 37), slice(0, 53))) == values[frame]).all()
    assert decodes(array)
    assert len(set(read)) == len(read) == -(-9 // chunks[0]) * -(-37 // chunks[1]) * -(-53 // chunks[2])


def test_modules_of_a_chunk_of_several_frames_are_decoded_once(stored, monkeypatch):
    values = pixels("u2", (24, 8, 10)).reshape(6, 4, 8, 10)
    array = stored(values, (3, 2, 8, 10), **CODECS["bitshuffle-lz4"])
    read = []
    monkeypatch.setattr(array, "_stored", lambda start: read.append(start) or StoredArray._stored(array, start))
    for frame in range(6):
        for module in range(4):
            assert (array.part((frame, module, slice(0, 8), slice(0, 10))) == values[frame, module]).all()
    assert len(set(read)) == len(read) == 4


def test_a_thread_keeps_no_more_than_the_limit(stored, monkeypatch):
    values = pixels("u2", (6, 37, 53))
    monkeypatch.setattr("sfxlab.frames.chunks._MOST_KEPT", 3 * 16 * 24 * 2 * 4)
    array = stored(values, (3, 16, 24), maxshape=(None, None, None), **CODECS["bitshuffle-lz4"])
    for frame in range(6):
        assert (array.part((frame, slice(0, 37), slice(0, 53))) == values[frame]).all()
        assert sum(chunk.nbytes for _, chunk in array._kept._chunks.values()) == 3 * 16 * 24 * 2 * 4


def test_pixels_that_are_changed_do_not_change_the_next_frame(stored):
    values = pixels("u2", (4, 37, 53))
    array = stored(values, (4, 37, 53), **CODECS["bitshuffle-lz4"])
    for frame in range(4):
        part = array.part((frame, slice(0, 37), slice(0, 53)))
        assert (part == values[frame]).all()
        part[:] = 7


def test_threads_read_chunks_of_several_frames_each_for_itself(stored):
    values = pixels("u2", (24, 37, 53))
    array = stored(values, (4, 37, 20), maxshape=(None, None, None), **CODECS["shuffle, gzip"])
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda i: array.part((i * 7 % 24, slice(0, 37), slice(0, 53))), range(240)))
    assert all((part == values[i * 7 % 24]).all() for i, part in enumerate(read))


@pytest.mark.parametrize("codec", ["blosc, checksum", "checksum", "shuffle, gzip, checksum"])
def test_a_chunk_without_room_for_its_checksum_is_damaged(tmp_path, codec):
    values = pixels("u2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        known = LEFT_TO_HDF5 | CODECS
        d = file.create_dataset("d", data=values, chunks=(1, 37, 53), **known[codec])
        d.id.write_direct_chunk((1, 0, 0), b"abc")
    with h5py.File(tmp_path / "a.h5") as file:
        array = StoredArray(file["d"])
        with pytest.raises(ValueError, match="a damaged chunk"):
            array.part(np.s_[1, 0:37, 0:53])
        for frame in (0, 2):
            assert (array.part((frame, slice(0, 37), slice(0, 53))) == values[frame]).all()


def test_checksums_before_compression_are_looked_at():
    """No writer of h5py puts it there, but HDF5 allows it."""
    plain = pixels("u2").tobytes()
    first, second = fletcher_sums(np.frombuffer(plain[: len(plain) // 2 * 2], "<u2"), -1)
    with_sums = plain + first.to_bytes(2, "little") + second.to_bytes(2, "little")
    known = decompression([(3, ()), (1, (4,))], 2)
    out = np.empty(len(plain), np.uint8)
    known.decode(zlib.compress(with_sums), 0, out)
    assert out.tobytes() == plain
    with pytest.raises(ValueError, match="its checksum is another"):
        known.decode(zlib.compress(b"\1" + with_sums[1:]), 0, out)


def test_a_chunk_behind_the_end_of_the_file_is_damaged(tmp_path):
    values = pixels("u2")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("d", data=values, chunks=(1, 37, 53), **CODECS["bitshuffle-lz4"])
    with h5py.File(tmp_path / "a.h5") as file:
        array = StoredArray(file["d"])
        assert (array.part(np.s_[0, 0:37, 0:53]) == values[0]).all()
        end = int(array._places._place[2, 0, 0]) + 10
        os.truncate(tmp_path / "a.h5", end)
        with pytest.raises(ValueError, match="the file ends before it does"):
            array.part(np.s_[2, 0:37, 0:53])
        assert (array.part(np.s_[1, 0:37, 0:53]) == values[1]).all()


@pytest.mark.parametrize("how", ["too many", "in memory", "standard library", "behind a header"])
def test_hdf5_fetches_chunks_that_are_not_simply_in_a_file(tmp_path, monkeypatch, how):
    values = pixels("u2")
    if how == "too many":
        monkeypatch.setattr("sfxlab.frames.chunk_places._MOST_CHUNKS", 2)
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=512 if how == "behind a header" else None) as file:
        file.create_dataset("d", data=values, chunks=(1, 37, 53), **CODECS["bitshuffle-lz4"])
    driver = {"in memory": "core", "standard library": "stdio"}.get(how)
    with h5py.File(tmp_path / "a.h5", driver=driver) as file:
        array = StoredArray(file["d"])
        assert array._places is None
        assert decodes(array)
        assert all((array.part((i, slice(0, 37), slice(0, 53))) == values[i]).all() for i in range(3))
