"""Files that another program is still writing, read again and again by one process."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
import warnings

import h5py
import numpy as np
import pytest

from sfxlab.errors import InputError, SfxlabWarning
from sfxlab.frames import open_frames
from sfxlab.geometry import parse_geometry
from sfxlab.processing import process
from sfxlab.recipe import Recipe

SHAPE = (40, 30)
GEOMETRY = """photon_energy = /energy eV
clen = 0.1
res = 10000
adu_per_photon = 1
data = /entry/data/data
dim0 = %
dim1 = ss
dim2 = fs
p/min_fs = 0
p/max_fs = 29
p/min_ss = 0
p/max_ss = 39
p/fs = x
p/ss = y
p/corner_x = -15
p/corner_y = -20
"""
WRITER = """
import json, sys
import h5py, hdf5plugin
file = data = energy = None

def begin(path, swmr=True, room=0, frames_per_chunk=1):
    global file, data, energy
    file = h5py.File(path, "w", libver="latest")
    data = file.create_dataset(
        "/entry/data/data", shape=(room, 40, 30), maxshape=(None, 40, 30), chunks=(frames_per_chunk, 40, 30),
        dtype="u4", **hdf5plugin.Bitshuffle(cname="lz4"),
    )
    energy = file.create_dataset("/energy", shape=(0,), maxshape=(None,), chunks=(16,), dtype="f8")
    if swmr:
        file.swmr_mode = True

def image(value, at=None):
    at = data.shape[0] if at is None else at
    if at >= data.shape[0]:
        data.resize(at + 1, 0)
    data[at] = value
    data.flush()

def number(value):
    energy.resize(len(energy) + 1, 0)
    energy[-1] = 9500 + value
    energy.flush()

def write(first, count):
    for value in range(first, first + count):
        number(value)
        image(value)

def end():
    file.close()

for line in sys.stdin:
    name, values = json.loads(line)
    globals()[name](**values)
    print("done", flush=True)
"""


class Writer:
    """A process that writes files; each call waits until it is done."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-c", WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __getattr__(self, name):
        def call(**values):
            self.process.stdin.write(json.dumps([name, values], default=str) + "\n")
            self.process.stdin.flush()
            assert self.process.stdout.readline() == "done\n"

        return call

    def kill(self):
        self.process.kill()
        self.process.wait(20)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def make_writer():
    started = []

    def start():
        started.append(Writer())
        return started[-1]

    yield start
    for writer in started:
        writer.kill()


@pytest.fixture
def writer(make_writer):
    return make_writer()


@pytest.fixture
def geometry():
    return parse_geometry(GEOMETRY)


@pytest.fixture
def make_eiger(mockdata, tmp_path):
    """Writes the master of an Eiger, with links or a virtual dataset, whose data files of 4 frames are still to come.

    Gives the master and the paths of the data files.
    """
    nxmx = mockdata("nxmx")

    def write(n_files=3, **options):
        frames = np.zeros((4 * n_files, *SHAPE), np.uint32)
        master = nxmx.write_master(tmp_path, frames, *nxmx.eiger(SHAPE), frames_per_file=4, **options)
        files = sorted(tmp_path.glob("*_data_*.h5"))
        for file in files:
            file.unlink()
        return master, files

    return write


def pixels(frames):
    """The values of the pixels of each frame, one where they are all the same."""
    return [int(value) for frame in frames for value in np.unique(frame.data)]


def energies(frames):
    return [frame.photon_energy for frame in frames]


@pytest.mark.parametrize("frames_per_chunk", [1, 3])
def test_opening_again_gives_the_frames_that_came_since_and_earlier_sources_stay_right(
    writer, geometry, tmp_path, frames_per_chunk
):
    path, opened, count = tmp_path / "a.h5", [], 0
    writer.begin(path=path, frames_per_chunk=frames_per_chunk)
    for step in (1, 1, 2, 20, 1, 70, 3, 1, 1, 5):
        writer.write(first=count, count=step)
        count += step
        frames = open_frames(path, geometry)
        assert pixels(frames) == list(range(count))
        assert energies(frames) == [9500 + i for i in range(count)]
        opened.append((count, frames, frames[-1:]))
        for n, before, last in opened:
            assert pixels(before) == list(range(n))
            assert pixels(last) == [n - 1]
    writer.end()
    writer.begin(path=tmp_path / "b.h5")
    assert pixels(open_frames(path, geometry)) == list(range(count))


def test_what_a_worker_unpickles_has_frames_that_came_after_it_opened_the_file(writer, geometry, tmp_path):
    path = tmp_path / "a.h5"
    writer.begin(path=path)
    writer.write(first=0, count=2)
    before = open_frames(path, geometry)
    assert pixels(before) == [0, 1]
    writer.write(first=2, count=2)
    code = "import pickle, sys, sfxlab; sys.stdout.buffer.write(pickle.dumps(sfxlab.open_frames(*sys.argv[1:])))"
    (tmp_path / "a.geom").write_text(GEOMETRY)
    elsewhere = subprocess.run(
        [sys.executable, "-c", code, path, tmp_path / "a.geom"], capture_output=True, check=True
    ).stdout
    assert pixels(pickle.loads(elsewhere)) == [0, 1, 2, 3]
    assert pixels(before) == [0, 1]


def test_threads_may_read_while_another_opens_again(writer, geometry, tmp_path):
    path, problems, stop = tmp_path / "a.h5", [], threading.Event()
    writer.begin(path=path)
    writer.write(first=0, count=5)

    def look(frames):
        while not stop.is_set():
            if pixels(frames) != [0, 1, 2, 3, 4]:
                problems.append("other pixels")

    def look_again():
        while not stop.is_set():
            seen = pixels(open_frames(path, geometry))
            if seen != list(range(len(seen))):
                problems.append(seen)

    def guarded(work, *arguments):
        try:
            work(*arguments)
        except Exception as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=guarded, args=(look, open_frames(path, geometry)))]
    threads += [threading.Thread(target=guarded, args=(look_again,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for count in range(5, 45):
        writer.write(first=count, count=1)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not problems
    assert pixels(open_frames(path, geometry)) == list(range(45))


def test_room_that_a_writer_made_beforehand_holds_no_frames_yet(writer, geometry, tmp_path):
    path = tmp_path / "a.h5"
    writer.begin(path=path, room=20)
    for value in range(20):
        writer.number(value=value)
        writer.image(value=value, at=value)
        assert pixels(open_frames(path, geometry)) == list(range(value + 1))


def test_frames_whose_energy_is_not_written_yet_do_not_count(writer, geometry, tmp_path):
    path = tmp_path / "a.h5"
    writer.begin(path=path)
    writer.write(first=0, count=1)
    writer.image(value=1)
    writer.image(value=2)
    assert energies(open_frames(path, geometry)) == [9500]
    writer.number(value=1)
    assert energies(open_frames(path, geometry)) == [9500, 9501]


def test_a_file_without_frames_so_far_says_so_and_has_them_later(writer, geometry, tmp_path):
    path = tmp_path / "a.h5"
    writer.begin(path=path)
    with pytest.raises(InputError, match="no frames"):
        open_frames(path, geometry)
    writer.write(first=0, count=1)
    assert pixels(open_frames(path, geometry)) == [0]


@pytest.mark.parametrize("path_of_data", ["/entry/data/data", "/entry/data/%"])
def test_data_files_of_a_master_that_come_one_after_another_are_followed(writer, make_eiger, path_of_data):
    master, files = make_eiger()
    geometry, opened, count = None, [], 0
    for number, file in enumerate(files):
        writer.begin(path=file)
        for _ in range(4):
            writer.write(first=count, count=1)
            count += 1
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                frames = open_frames(master, geometry)
            warned = [str(warning.message) for warning in caught if "not there yet" in str(warning.message)]
            assert bool(warned) == (number < 2 and (geometry is None or path_of_data.endswith("data")))
            geometry = parse_geometry(frames.geometry_text.replace("/entry/data/data", path_of_data))
            opened.append((count, frames))
            for n, before in opened:
                assert pixels(before) == list(range(n))
        writer.end()
    assert pixels(open_frames(master)) == list(range(12))


def test_data_files_that_cannot_be_read_while_they_are_written_come_when_they_are_closed(writer, make_eiger):
    master, files = make_eiger()
    for number, file in enumerate(files):
        writer.begin(path=file, swmr=False)
        writer.write(first=4 * number, count=4)
        if number:
            with pytest.warns(SfxlabWarning, match=f"not there yet, from data_00000{number + 1}"):
                assert pixels(open_frames(master)) == list(range(4 * number))
        writer.end()
    assert pixels(open_frames(master)) == list(range(12))


def test_a_virtual_dataset_has_the_frames_that_its_sources_have(writer, make_eiger):
    master, files = make_eiger(layout="virtual")
    opened, count = [], 0
    for number, file in enumerate(files):
        writer.begin(path=file)
        for _ in range(4):
            writer.write(first=count, count=1)
            count += 1
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", f".*{2 - number} of the 3 files that it refers to are missing")
                frames = open_frames(master)
            opened.append((count, frames))
            for n, before in opened:
                assert pixels(before) == list(range(n))
        if number < 2:
            writer.end()


def test_a_virtual_dataset_over_files_written_in_turns_ends_at_the_first_frame_that_is_missing(
    make_writer, geometry, tmp_path
):
    paths, writers = [tmp_path / "a.h5", tmp_path / "b.h5"], [make_writer(), make_writer()]
    layout = h5py.VirtualLayout((20, *SHAPE), np.uint32)
    for number, (path, writer) in enumerate(zip(paths, writers, strict=True)):
        writer.begin(path=path)
        layout[number::2] = h5py.VirtualSource(path.name, "/entry/data/data", (10, *SHAPE))
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("/entry/data/data", layout)
        file["/energy"] = np.full(20, 9500.0)
    for value in (0, 2, 4):
        writers[0].image(value=value)
    assert pixels(open_frames(tmp_path / "all.h5", geometry)) == [0]
    for value, count in ((1, 3), (3, 5), (5, 6)):
        writers[1].image(value=value)
        assert pixels(open_frames(tmp_path / "all.h5", geometry)) == list(range(count))


def test_a_virtual_dataset_without_a_length_of_its_own_is_refused_until_its_files_are_closed(
    writer, geometry, tmp_path
):
    writer.begin(path=tmp_path / "a.h5")
    writer.write(first=0, count=3)
    endless = h5py.h5s.UNLIMITED
    layout = h5py.VirtualLayout((1, *SHAPE), np.uint32, maxshape=(None, *SHAPE))
    source = h5py.VirtualSource("a.h5", "/entry/data/data", (1, *SHAPE), maxshape=(None, *SHAPE))
    layout[0:endless] = source[0:endless]
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file.create_virtual_dataset("/entry/data/data", layout)
        file["/energy"] = 9500.0
    with pytest.raises(InputError, match=r"is being written[\s\S]*wait until they are closed"):
        open_frames(tmp_path / "all.h5", geometry)
    writer.end()
    assert pixels(open_frames(tmp_path / "all.h5", geometry)) == [0, 1, 2]


def test_a_growing_dataset_that_something_else_has_open_is_refused_with_advice(writer, geometry, tmp_path):
    path = tmp_path / "a.h5"
    writer.begin(path=path)
    writer.write(first=0, count=2)
    with h5py.File(path, "r", swmr=True) as other:
        images = other["/entry/data/data"]
        with pytest.raises(InputError, match="something else in this process has it open"):
            open_frames(path, geometry)
        assert images.shape[0] == 2
    writer.write(first=2, count=1)
    assert pixels(open_frames(path, geometry)) == [0, 1, 2]


def test_a_file_whose_swmr_writer_was_killed_is_read(writer, geometry, tmp_path):
    path = tmp_path / "a.h5"
    writer.begin(path=path)
    writer.write(first=0, count=2)
    before = open_frames(path, geometry)
    writer.kill()
    assert pixels(before) == pixels(open_frames(path, geometry)) == [0, 1]


def test_a_file_that_is_written_otherwise_is_refused_with_advice(writer, geometry, tmp_path):
    path = tmp_path / "a.h5"
    writer.begin(path=path, swmr=False)
    writer.write(first=0, count=1)
    with pytest.raises(InputError) as caught:
        open_frames(path, geometry)
    assert str(path) in str(caught.value)
    assert "to do:" in str(caught.value)


def test_the_frames_that_are_there_are_processed(writer, geometry, tmp_path):
    path = tmp_path / "a.h5"
    writer.begin(path=path)
    writer.write(first=0, count=3)
    first = process(open_frames(path, geometry), Recipe(), output=tmp_path / "first", progress=None)
    writer.write(first=3, count=10)
    second = process(open_frames(path, geometry), Recipe(), output=tmp_path / "second", progress=None)
    assert [run.frames["status"].to_pylist() for run in (first, second)] == [["blank"] * 3, ["blank"] * 13]
