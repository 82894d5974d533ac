import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from sfxlab.errors import FrameError, GeometryError, InputError, SfxlabError
from sfxlab.frames import open_frames
from sfxlab.frames.events import fill_placeholders, format_event, parse_event
from sfxlab.geometry import parse_geometry

SINGLE = """photon_energy = 9 keV
clen = 0.1
res = 10000
p0/min_fs = 0
p0/max_fs = 5
p0/min_ss = 0
p0/max_ss = 7
p0/corner_x = 0
p0/corner_y = 0
p0/fs = x
p0/ss = y
"""


def events(frames) -> list[str]:
    return [f"{Path(frames.identity(i).path).name} {frames.identity(i).event}" for i in range(len(frames))]


@pytest.fixture
def geometry(two_panels):
    return parse_geometry(two_panels)


def test_files_come_from_globs_directories_and_lists_alike(make_cxi, geometry, tmp_path):
    paths = [make_cxi(f"run/{name}.cxi") for name in ("b", "a")]
    (tmp_path / "run" / "notes.md").write_text("not a file of frames")
    expected = [f"{name}.cxi //{i}" for name in "ab" for i in range(4)]
    assert events(open_frames(tmp_path / "run", geometry)) == expected
    assert events(open_frames(str(tmp_path / "r*" / "*.cxi"), geometry)) == expected
    assert events(open_frames([paths[1], str(paths[0])], geometry)) == expected
    assert events(open_frames(paths, geometry)) == expected[4:] + expected[:4]


def test_a_list_names_files_and_events_in_any_order(make_cxi, geometry, tmp_path, monkeypatch):
    make_cxi("data/a.cxi")
    make_cxi("data/b c.cxi")
    (tmp_path / "l.lst").write_text(
        "data/b c.cxi //2\r\ndata/a.cxi //1\r\n\r\ndata/a.cxi //2\ndata/a.cxi //0\ndata/b c.cxi\n"
    )
    expected = ["b c.cxi //2", "a.cxi //1", "a.cxi //2", "a.cxi //0", *(f"b c.cxi //{i}" for i in range(4))]
    frames = open_frames(tmp_path / "l.lst", geometry)
    assert events(frames) == expected
    assert [f.photon_energy for f in frames[:4]] == [9002, 9001, 9002, 9000]
    assert [f.index for f in frames[::-1]] == list(range(8))[::-1]
    assert events(frames[1:4][::2]) == ["a.cxi //1", "a.cxi //0"]
    monkeypatch.chdir(tmp_path / "data")
    (tmp_path / "m.lst").write_text("a.cxi //3\n")
    assert events(open_frames(tmp_path / "m.lst", geometry)) == ["a.cxi //3"]


def test_events_of_paths_are_found_by_their_names(make_hdf5, two_panels, tmp_path):
    make_hdf5("a.h5", {f"/{tag}/data": np.zeros((8, 6)) for tag in ("s1", "s2")})
    (tmp_path / "a.lst").write_text("a.h5 s2//\n")
    geometry = parse_geometry("data = /%/data\n" + SINGLE)
    assert events(open_frames(tmp_path / "a.lst", geometry)) == ["a.h5 s2//"]


def test_names_of_events_are_read_and_written_as_crystfel_does():
    for name, tags, indices in (
        ("//3", (), (3,)),
        ("tag//", ("tag",), ()),
        ("a/b//3/0", ("a", "b"), (3, 0)),
        ("//", (), ()),
    ):
        assert parse_event(name) == (tags, indices)
        assert format_event(tags, indices) == name
    assert fill_placeholders("/a/%/b/%", ("x", "y")) == "/a/x/b/y"
    assert fill_placeholders("/mask/%", ("x", "y")) == "/mask/x"


def test_of_very_many_single_frames_only_the_first_is_opened_beforehand(make_hdf5, tmp_path):
    good = make_hdf5("good.h5", {"/data/data": np.ones((8, 6))})
    (tmp_path / "bad.h5").write_bytes(b"broken")
    (tmp_path / "a.lst").write_text("\n".join([str(good)] * 120 + [str(tmp_path / "bad.h5")]))
    frames = open_frames(tmp_path / "a.lst", parse_geometry(SINGLE))
    assert len(frames) == 121
    with pytest.raises(FrameError, match=r"bad\.h5, frame //: this is not an HDF5 file"):
        frames[120]


def test_without_a_geometry_it_is_said_how_to_give_one(make_cxi):
    with pytest.raises(GeometryError, match=r"frames\.cxi: this file does not carry its geometry[\s\S]*-g FILE\.geom"):
        open_frames(make_cxi())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.h5", r"none\.h5: there is no such file"),
        ("none*.h5", r"none\*\.h5: no file matches"),
        ("empty", r"empty: the directory has no HDF5 files"),
        ("text.h5", r"text\.h5: this is not an HDF5 file"),
        ("empty.lst", r"empty\.lst: the list is empty"),
        ("wrong.lst", r"wrong\.lst, line 2: the list names a file that does not exist\n  found:    missing\.h5"),
        ("binary.lst", r"binary\.lst: the list cannot be read"),
        ("ftp://example.org/a.h5", "addresses of this kind cannot be read"),
    ],
)
def test_inputs_that_cannot_be_used_are_named(tmp_path, make_cxi, geometry, name, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.h5").write_text("just text")
    (tmp_path / "empty.lst").write_text("\n\n")
    (tmp_path / "wrong.lst").write_text(f"{make_cxi()}\nmissing.h5\n")
    (tmp_path / "binary.lst").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=message):
        open_frames(name if "://" in name else tmp_path / name, geometry)


def test_no_input_at_all_is_refused(geometry):
    with pytest.raises(InputError, match="no files are given"):
        open_frames([], geometry)


@pytest.mark.parametrize("event", ["//4", "//-1", "tag//1", "//1/2", "//x", "//"])
def test_an_event_that_does_not_exist_is_named_with_its_line(make_cxi, geometry, tmp_path, event):
    (tmp_path / "a.lst").write_text(f"{make_cxi()} //0\n{tmp_path}/frames.cxi {event}\n")
    with pytest.raises(InputError) as caught:
        open_frames(tmp_path / "a.lst", geometry)
    assert "a.lst, line 2: the list names an event that does not exist" in str(caught.value)
    assert f"found:    {event}" in str(caught.value)
    assert "//0 to //3 of" in str(caught.value)


def test_files_can_be_read_beside_other_handles_of_this_process(make_cxi, geometry):
    path = make_cxi()
    with h5py.File(path) as before:
        frames = open_frames(path, geometry)
        assert (frames[0].data == before["/entry_1/data_1/data"][0]).all()
        with h5py.File(path) as after:
            assert (frames[1].data == after["/entry_1/data_1/data"][1]).all()


def test_files_can_be_read_while_another_program_has_them_locked(make_cxi, geometry):
    path = make_cxi()
    write = "import h5py, sys; f = h5py.File(sys.argv[1], 'r+'); print('open', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", write, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "open\n"
        assert len(list(open_frames(path, geometry))) == 4
        writer.communicate("")


def test_a_truncated_file_is_named(make_cxi, geometry):
    path = make_cxi(frames=np.zeros((40, 8, 6)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"frames\.cxi: the file is truncated\n  found:    truncated file: eof = "):
        open_frames(path, geometry)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "data = /entry_1/data_1/data",
            "data = /entry/data_1/data",
            "frames.cxi, /entry/data_1/data: the file has no such",
        ),
        ("data = /entry_1/data_1/data", "data = /entry/data_1/data", "did you mean '/entry_1/data_1/data'?"),
        ("data = /entry_1/data_1/data", "data = /entry_1/data_1", "this HDF5 path is a group"),
        ("data = /entry_1/data_1/data", "data = /x/%/data", "frames.cxi, /x/%/data: nothing in the file matches"),
        ("mask0_data = /entry_1/data_1/mask", "mask0_data = /m/mask", "frames.cxi, /m/mask: the file has no such"),
        ("mask0_data = /entry_1/data_1/mask", "mask0_data = /LCLS/photon_energy_eV", "the mask does not fit the data"),
        ("/LCLS/photon_energy_eV", "/LCLS/photon_energy", "did you mean '/LCLS/photon_energy_eV'?"),
        ("clen = 0.1 m", "clen = /LCLS/clen", "frames.cxi, /LCLS/clen: the file has no such HDF5 path"),
        ("clen = 0.1 m", "clen = /name", "frames.cxi, /name: these are no numbers"),
        ("clen = 0.1 m", "clen = /three", "frames.cxi, /three: 'clen' has no value for this frame"),
        ("dim0 = %\ndim1 = ss\ndim2 = fs", "dim0 = ss\ndim1 = fs", "another number of axes"),
        ("dim0 = %\ndim1 = ss\ndim2 = fs", "dim0 = ss\ndim1 = fs", "found:    3 axes, 4 × 8 × 6"),
        ("dim0 = %", "dim0 = 4", "dim0 = 4 is outside the data array"),
        ("right/max_fs = 5", "right/max_fs = 6", "panel 'right' is outside the data array"),
        ("right/min_fs = 3", "right/data = /three\nright/min_fs = 3", "/three: the data array has another number"),
        (
            "right/min_fs = 3",
            "right/data = /few\nright/min_fs = 3",
            "/few: data arrays have different numbers",
        ),
        ("left/min_fs = 0", "left/data = /name\nleft/min_fs = 0", "/name: these are no pixel values"),
        ("left/min_fs = 0", "mask1_file = no.h5\nmask1_data = /m\nleft/min_fs = 0", "there is no such mask file"),
    ],
)
def test_a_geometry_that_does_not_fit_the_file_is_refused_with_the_place(make_cxi, two_panels, before, after, message):
    path = make_cxi()
    with h5py.File(path, "r+") as file:
        file["/name"] = "lysozyme"
        file["/three"] = [1.0, 2.0, 3.0]
        file["/few"] = np.zeros((3, 8, 6))
    assert before in two_panels
    with pytest.raises(SfxlabError) as caught:
        open_frames(path, parse_geometry(two_panels.replace(before, after, 1)))
    assert message in str(caught.value)
    assert caught.value.remedy or caught.value.expected


def test_a_missing_compression_filter_is_named(tmp_path, two_panels):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        settings.set_chunk((8, 6))
        settings.set_filter(32099, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((8, 6))
        group = h5py.h5g.create(file.id, b"data")
        h5py.h5d.create(group, b"data", h5py.h5t.NATIVE_UINT16, space, settings)
    with pytest.raises(InputError, match=r"a\.h5, /data/data: a compression filter is missing[\s\S]*filter 32099"):
        open_frames(tmp_path / "a.h5", parse_geometry(SINGLE))


def test_a_missing_compression_filter_of_a_file_not_opened_beforehand_fails_its_frame(tmp_path):
    # Filter 32099 is nobody's; "optional" lets it be set all the same.
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((8, 6))
    settings.set_filter(32099, h5py.h5z.FLAG_OPTIONAL)
    with h5py.File(tmp_path / "good.h5", "w") as file:
        file["/data/data"] = np.zeros((8, 6), dtype=np.uint16)
    with h5py.File(tmp_path / "strange.h5", "w") as file:
        group = h5py.h5g.create(file.id, b"data")
        space = h5py.h5s.create_simple((8, 6))
        h5py.h5d.create(group, b"data", h5py.h5t.NATIVE_UINT16, space, settings).write_direct_chunk((0, 0), bytes(96))
    frames = open_frames([tmp_path / "good.h5"] * 101 + [tmp_path / "strange.h5"], parse_geometry(SINGLE))
    with pytest.raises(FrameError, match=r"strange\.h5, frame //, /data/data: a compression filter is missing"):
        frames[101]


def test_a_link_to_a_missing_file_is_named(tmp_path):
    with h5py.File(tmp_path / "master.h5", "w") as file:
        file["/data/data"] = h5py.ExternalLink("data_000001.h5", "/entry/data")
    with pytest.raises(InputError, match=r"master\.h5, /data/data: this HDF5 path is a link[\s\S]*data_000001\.h5"):
        open_frames(tmp_path / "master.h5", parse_geometry(SINGLE))


def test_a_file_with_damaged_structure_is_named(make_cxi, geometry):
    path = make_cxi()
    content = bytearray(path.read_bytes())
    content[96:2000] = bytes(2000 - 96)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"frames\.cxi"):
        open_frames(path, geometry)


def test_a_file_without_frames_is_refused_but_not_among_others(make_cxi, geometry):
    empty = make_cxi("empty.cxi", frames=np.zeros((0, 8, 6)), mask=np.zeros((8, 6), int), energies=[])
    with pytest.raises(InputError, match=r"empty\.cxi: there are no frames"):
        open_frames(empty, geometry)
    assert len(open_frames([empty, make_cxi()], geometry)) == 4
