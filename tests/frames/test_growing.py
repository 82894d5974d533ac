"""Files that another program is still writing."""

import subprocess
import sys
from ast import literal_eval
from itertools import islice
from pathlib import Path

import pytest

from sfxlab.errors import InputError
from sfxlab.frames import open_frames

GEOMETRY = """photon_energy = /energy eV
clen = 0.1
res = 10000
adu_per_photon = 1
data = /entry/data/data
dim0 = %
dim1 = ss
dim2 = fs
p/min_fs = 0
p/max_fs = 15
p/min_ss = 0
p/max_ss = 15
p/fs = x
p/ss = y
p/corner_x = -8
p/corner_y = -8
"""
WRITER = """
import sys
import h5py, hdf5plugin
file = h5py.File(sys.argv[1], "w", libver="latest")
data = file.create_dataset(
    "/entry/data/data", shape=(0, 16, 16), maxshape=(None, 16, 16), chunks=(1, 16, 16), dtype="u2",
    **hdf5plugin.Bitshuffle(cname="lz4"),
)
energy = file.create_dataset("/energy", shape=(0,), maxshape=(None,), chunks=(16,), dtype="f8")
if sys.argv[2] == "swmr":
    file.swmr_mode = True
for line in sys.stdin:
    for table, value in ((energy, 9500 + int(line)), (data, int(line))):
        table.resize(int(line) + 1, 0)
        table[int(line)] = value
        table.flush()
    print("written", flush=True)
file.close()
"""


@pytest.fixture
def writer(tmp_path):
    """Starts a process that writes a file, and makes it write so many frames."""
    started = []

    def start(mode):
        path = tmp_path / f"{mode}.h5"
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, path, mode], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        numbers = iter(range(1000))

        def write(count):
            for number in islice(numbers, count):
                process.stdin.write(f"{number}\n")
                process.stdin.flush()
                assert process.stdout.readline() == "written\n"

        return path, write, process

    yield start
    for process in started:
        process.kill()
        process.wait(20)
        process.stdin.close()
        process.stdout.close()


@pytest.fixture
def geometry(tmp_path) -> Path:
    path = tmp_path / "small.geom"
    path.write_text(GEOMETRY)
    return path


def look(path, geometry):
    """First pixel and photon energy of each frame, as a process sees them that opens the file now.

    HDF5 does not follow a growing file reliably where one process has it open from before.
    """
    code = (
        "import sys, sfxlab\n"
        "print([(int(f.data[0, 0]), int(f.data[9, 9]), f.photon_energy) for f in sfxlab.open_frames(*sys.argv[1:])])"
    )
    done = subprocess.run([sys.executable, "-c", code, path, geometry], capture_output=True, text=True, check=True)
    return literal_eval(done.stdout)


def test_a_growing_file_has_the_frames_that_are_there_when_it_is_opened(writer, geometry):
    path, write, process = writer("swmr")
    write(3)
    assert look(path, geometry) == [(i, i, 9500 + i) for i in range(3)]
    write(2)
    assert look(path, geometry) == [(i, i, 9500 + i) for i in range(5)]
    process.stdin.close()
    process.wait(20)
    assert len(open_frames(path, geometry)) == 5


def test_a_file_whose_swmr_writer_was_killed_is_read(writer, geometry):
    path, write, process = writer("swmr")
    write(2)
    process.kill()
    process.wait(20)
    assert [int(frame.data[0, 0]) for frame in open_frames(path, geometry)] == [0, 1]


def test_a_file_that_is_written_otherwise_is_refused_with_advice(writer, geometry):
    path, write, _ = writer("plain")
    write(1)
    with pytest.raises(InputError) as caught:
        open_frames(path, geometry)
    assert str(path) in str(caught.value)
    assert "to do:" in str(caught.value)
