"""CrystFEL streams out and in."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import reciprocalspaceship as rs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from sfxlab.crystal import Crystal, UnitCell
from sfxlab.errors import OutputExistsError, StreamError
from sfxlab.frames import FrameId
from sfxlab.geometry import Detector
from sfxlab.geometry.crystfel import parse_geometry
from sfxlab.integration import Reflections
from sfxlab.interop.stream_reader import Stream, read_stream
from sfxlab.interop.stream_writer import write_stream
from sfxlab.peaks import Peaks
from sfxlab.pipeline import FrameResult

# Two modules in one stack of arrays: in the file both begin at (0, 0), in the slab one lies below the other.
GEOMETRY = """photon_energy = 9500 eV
clen = 0.1 m
bandwidth = 0.002
res = 10000
adu_per_photon = 1
data = /data
dim0 = %
dim2 = ss
dim3 = fs
upper/dim1 = 0
lower/dim1 = 1
upper/min_fs = 0
upper/max_fs = 199
upper/min_ss = 0
upper/max_ss = 99
upper/fs = 1x
upper/ss = 1y
upper/corner_x = -100
upper/corner_y = 10
lower/min_fs = 0
lower/max_fs = 199
lower/min_ss = 0
lower/max_ss = 99
lower/fs = 1x
lower/ss = 1y
lower/corner_x = -100
lower/corner_y = -110
"""
CELL = UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", unique_axis="c")
ROTATION, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))


@pytest.fixture
def detector() -> Detector:
    return parse_geometry(GEOMETRY).detector(0.1)


def random_peaks(n: int, seed: int = 1) -> Peaks:
    rng = np.random.default_rng(seed)
    panel = rng.integers(0, 2, n)
    return replace(
        Peaks(*(np.ones(n, dtype=np.float32) for _ in fields(Peaks))),
        panel=panel.astype(np.int16),
        fs=rng.uniform(0, 200, n).astype(np.float32),
        ss=(rng.uniform(0, 100, n) + 100 * panel).astype(np.float32),
        intensity=rng.normal(500, 300, n).astype(np.float32),
        resolution=rng.uniform(0.05, 0.5, n).astype(np.float32),
    )


def random_reflections(n: int, seed: int = 1) -> Reflections:
    rng = np.random.default_rng(seed)
    panel = rng.integers(0, 2, n)
    h, k, l = rng.integers(-40, 40, (3, n)).astype(np.int32)  # noqa: E741
    return replace(
        Reflections(h, k, l, *(np.ones(n, dtype=np.float32) for _ in fields(Reflections)[3:])),
        intensity=rng.normal(50, 100, n).astype(np.float32),
        sigma=rng.uniform(3, 30, n).astype(np.float32),
        peak=rng.uniform(0, 300, n).astype(np.float32),
        background=rng.uniform(0, 9, n).astype(np.float32),
        panel=panel.astype(np.int16),
        fs=rng.uniform(0, 200, n).astype(np.float32),
        ss=(rng.uniform(0, 100, n) + 100 * panel).astype(np.float32),
        saturated=rng.random(n) < 0.1,
    )


def indexed(index: int = 0, lattices: int = 1) -> FrameResult:
    crystal = Crystal(
        CELL, ROTATION @ CELL.reciprocal_basis, 0.002, 0.41, (1e-5, -2e-5), n_peaks=31, log10_p=-12.5, rms_residual=0.4
    )
    return FrameResult(
        FrameId("/data/run 1.cxi", f"//{index}"),
        index,
        "indexed",
        photon_energy=9512.5,
        camera_length=0.1,
        peaks=random_peaks(40, index),
        crystals=(crystal,) * lattices,
        reflections=tuple(random_reflections(50 + i, index + i) for i in range(lattices)),
    )


def export(path: Path, results: list[FrameResult], detector: Detector, **options: bool) -> Stream:
    count = write_stream(
        path, results, detector, geometry_text=GEOMETRY, cell=CELL, command="sfxlab process run.cxi", **options
    )
    assert count == len(results)
    return read_stream(path)


def assert_columns(found: object, written: object, names: dict[str, float]) -> None:
    for name, tolerance in names.items():
        np.testing.assert_allclose(
            getattr(found, name), getattr(written, name), rtol=1e-6, atol=tolerance, err_msg=name
        )


PEAK_COLUMNS = {"panel": 0, "fs": 0.0051, "ss": 0.0051, "intensity": 0.0051, "resolution": 0.00051}
REFLECTION_COLUMNS = (
    {"h": 0, "k": 0, "l": 0, "panel": 0, "fs": 0.051, "ss": 0.051}
    | dict.fromkeys(["intensity", "sigma", "peak", "background"], 0.0051)
)  # fmt: skip


def test_what_is_written_is_read_back_within_the_printed_precision(tmp_path: Path, detector: Detector) -> None:
    written = [indexed(0), indexed(1, lattices=2)]
    stream = export(tmp_path / "a.stream", written, detector)
    assert (stream.format, stream.command, stream.geometry_text) == ("2.3", "sfxlab process run.cxi", GEOMETRY)
    assert stream.cell == CELL
    assert stream.detector == detector
    for found, result in zip(stream.results(), written, strict=True):
        assert (found.id, found.index, found.status) == (result.id, result.index, "indexed")
        assert (found.photon_energy, found.camera_length) == (9512.5, 0.1)
        assert_columns(found.peaks, result.peaks, PEAK_COLUMNS)
        for reflections, expected in zip(found.reflections, result.reflections, strict=True):
            assert_columns(reflections, expected, REFLECTION_COLUMNS)
        for crystal, expected in zip(found.crystals, result.crystals, strict=True):
            np.testing.assert_allclose(crystal.cell.parameters, CELL.parameters, atol=6e-5)
            assert (crystal.cell.lattice_type, crystal.cell.centring, crystal.cell.unique_axis) == (
                "tetragonal",
                "P",
                "c",
            )
            np.testing.assert_allclose(crystal.basis, expected.basis, atol=6e-9)
            assert crystal.detector_shift == pytest.approx((1e-5, -2e-5), abs=5e-7)
            assert (crystal.profile_radius, crystal.resolution_limit) == (pytest.approx(0.002), pytest.approx(0.41))
            assert (crystal.n_peaks, crystal.log10_p, crystal.rms_residual) == (31, -12.5, 0.4)


def test_positions_are_those_of_the_file_not_of_the_slab(tmp_path: Path, detector: Detector) -> None:
    result = replace(indexed(), peaks=random_peaks(300))
    assert result.peaks.ss.max() > 100
    export(tmp_path / "a.stream", [result], detector)
    block = (tmp_path / "a.stream").read_text().split("Panel\n")[1].split("End of peak list")[0]
    rows = [line.split() for line in block.splitlines()]
    assert max(float(row[1]) for row in rows) <= 100
    assert [row[4] for row in rows] == [("upper", "lower")[i] for i in result.peaks.panel]


def test_frames_without_a_lattice_keep_their_status_and_reason(tmp_path: Path, detector: Detector) -> None:
    peaks = random_peaks(12)
    written = [
        FrameResult(FrameId("a.h5", "//0"), 0, "blank", peaks=random_peaks(0)),
        FrameResult(FrameId("a.h5", "//1"), 1, "hit", "best cell 4.1 % off in a", peaks=peaks),
        FrameResult(FrameId("a.h5", "//2"), 2, "failed", "the chunk is damaged:\nfilter 32008"),
    ]
    found = list(export(tmp_path / "a.stream", written, detector).results())
    assert [r.status for r in found] == ["blank", "hit", "failed"]
    assert [r.reason for r in found] == ["", "best cell 4.1 % off in a", "the chunk is damaged: filter 32008"]
    assert [len(r.peaks) for r in found] == [0, 12, 0]
    assert math.isnan(found[0].photon_energy)


@pytest.mark.filterwarnings("ignore")  # of pandas, inside reciprocalspaceship
def test_reciprocalspaceship_reads_the_same_numbers(tmp_path: Path, detector: Detector) -> None:
    written = [
        FrameResult(FrameId("a.h5", "//9"), 9, "blank", photon_energy=9512.5),
        indexed(0),
        indexed(1, lattices=2),
    ]
    stream = export(tmp_path / "a.stream", written, detector)
    columns = ["H", "K", "L", "I", "SigI", "BATCH", "XDET", "YDET", "peak", "background", "ewald_offset"]
    table = rs.read_crystfel(str(tmp_path / "a.stream"), columns=columns, num_cpus=1).reset_index()
    assert table.cell.parameters == pytest.approx(CELL.parameters)
    lists = [r for result in stream.results() for r in result.reflections]
    assert len(table) == sum(len(r) for r in lists) == 50 + 50 + 51
    for batch, reflections in enumerate(lists):
        rows = table[table["BATCH"] == batch]
        np.testing.assert_array_equal(rows[["H", "K", "L"]].to_numpy(), reflections.hkl)
        for column, name in {"I": "intensity", "SigI": "sigma", "peak": "peak", "background": "background"}.items():
            np.testing.assert_allclose(rows[column].to_numpy(), getattr(reflections, name), rtol=1e-6)
        np.testing.assert_allclose(rows["XDET"].to_numpy(), reflections.fs, atol=1e-4)
        np.testing.assert_allclose(rows["YDET"].to_numpy(), reflections.ss - 100 * reflections.panel, atol=1e-4)
        # Its offset is positive outside the Ewald sphere, in single precision.
        np.testing.assert_allclose(-rows["ewald_offset"].to_numpy(), reflections.excitation_error, atol=1e-5)


FLOATS = st.floats(-1e7, 1e7, width=32) | st.sampled_from([math.nan, math.inf, -math.inf])


@given(values=hnp.arrays(np.float32, 30, elements=FLOATS))
def test_any_number_survives_even_nan_and_infinity(
    values: np.ndarray, tmp_path_factory: pytest.TempPathFactory
) -> None:
    detector = parse_geometry(GEOMETRY).detector(0.1)
    result = indexed()
    (reflections,) = result.reflections
    reflections = replace(reflections[:30], intensity=values, sigma=values[::-1].copy(), fs=values)
    peaks = replace(result.peaks[:30], intensity=values)
    path = tmp_path_factory.mktemp("any") / "a.stream"
    (found,) = export(path, [replace(result, peaks=peaks, reflections=(reflections,))], detector).results()
    assert_columns(found.reflections[0], reflections, REFLECTION_COLUMNS)
    assert_columns(found.peaks, peaks, PEAK_COLUMNS)


def test_a_name_in_gz_is_compressed(tmp_path: Path, detector: Detector) -> None:
    export(tmp_path / "a.stream", [indexed()], detector)
    (found,) = export(tmp_path / "a.stream.gz", [indexed()], detector).results()
    assert gzip.decompress((tmp_path / "a.stream.gz").read_bytes()) == (tmp_path / "a.stream").read_bytes()
    assert len(found.reflections[0]) == 50


def test_nothing_is_overwritten_without_being_asked(tmp_path: Path, detector: Detector) -> None:
    path = tmp_path / "a.stream"
    path.write_text("precious")
    with pytest.raises(OutputExistsError):
        export(path, [indexed()], detector)
    assert path.read_text() == "precious"
    assert len(list(export(path, [indexed()], detector, overwrite=True).results())) == 1


def test_an_export_that_stops_half_way_leaves_nothing(tmp_path: Path, detector: Detector) -> None:
    def broken():
        yield indexed()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_stream(tmp_path / "a.stream", broken(), detector, geometry_text=GEOMETRY, cell=None, command="")
    assert list(tmp_path.iterdir()) == []


def test_a_lattice_without_reflections_is_kept(tmp_path: Path, detector: Detector) -> None:
    written = [replace(indexed(), reflections=()), replace(indexed(1), reflections=(random_reflections(0),))]
    found = list(export(tmp_path / "a.stream", written, detector).results())
    assert [len(r.crystals) for r in found] == [1, 1]
    assert [len(r.reflections[0]) for r in found] == [0, 0]
    assert (tmp_path / "a.stream").read_text().count("No integrated reflections.") == 2


def test_old_dialects_without_panel_names_find_panels_by_position(tmp_path: Path) -> None:
    geometry = GEOMETRY.replace("dim0 = %\ndim2 = ss\ndim3 = fs\nupper/dim1 = 0\nlower/dim1 = 1\n", "")
    geometry = geometry.replace("lower/min_ss = 0", "lower/min_ss = 100").replace(
        "lower/max_ss = 99", "lower/max_ss = 199"
    )
    text = f"""CrystFEL stream format 2.1
Command line: indexamajig -i a.lst
----- Begin geometry file -----
{geometry}----- End geometry file -----
----- Begin chunk -----
Image filename: a.h5
indexed_by = mosflm
photon_energy_eV = 9500.0
hdf5/some/thing = 12
Peaks from peak search
  fs/px   ss/px  (1/d)/nm^-1   Intensity
  10.00   20.00        2.00      100.00
  10.00  120.00        3.00      200.00
End of peak list
--- Begin crystal
Cell parameters 7.93 7.93 3.78 nm, 90.0 90.0 90.0 deg
astar = +0.1261034 +0.0000000 +0.0000000 nm^-1
bstar = +0.0000000 +0.1261034 +0.0000000 nm^-1
cstar = +0.0000000 +0.0000000 +0.2645503 nm^-1
Reflections measured after indexing
  h   k   l          I    phase   sigma(I)   counts  fs/px  ss/px
  1  -2   3      12.50        -       1.25        1   11.0  130.5
End of reflections
--- End crystal
----- End chunk -----
"""
    path = tmp_path / "old.stream"
    path.write_text(text)
    (result,) = read_stream(path).results()
    assert result.id == FrameId("a.h5", "//")
    assert (result.index, result.status) == (0, "indexed")
    np.testing.assert_array_equal(result.peaks.panel, [0, 1])
    (reflections,) = result.reflections
    assert (reflections.panel[0], reflections.intensity[0], reflections.sigma[0]) == (1, 12.5, 1.25)
    assert math.isnan(reflections.background[0])
    assert reflections.resolution[0] == pytest.approx(np.linalg.norm([0.01261034, -0.02522068, 0.07936509]))


REAL_STREAMS = [
    "real/stream_5ht2b/5ht2b.stream",
    "real/stream_lysozyme_pal/lysozyme_pal.stream",
    "real/thermolysin_cspad/thermolysin_crystfel.stream",
    "lyso/reference/xgandalf_cell.stream.gz",
    "psii/reference/asdf_cell.stream.gz",
]


def text_of(path: Path) -> str:
    return gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()


def rows_between(text: str, begin: str, end: str) -> int:
    blocks = re.findall(f"^{begin}[^\n]*\n(.*?)^{end}", text, flags=re.MULTILINE | re.DOTALL)
    return sum(block.count("\n") - 1 for block in blocks)


@pytest.mark.parametrize("name", REAL_STREAMS)
def test_real_streams_are_read_whole(name: str, shared_data: Path) -> None:
    text = text_of(shared_data / name)
    stream = read_stream(shared_data / name)
    results = list(stream.results())
    assert len(results) == text.count("----- Begin chunk")
    assert sum(r.status != "blank" for r in results) == text.count("\nhit = 1\n")
    assert sum(len(r.crystals) for r in results) == text.count("--- Begin crystal")
    assert sum(len(r.peaks) for r in results) == rows_between(text, "Peaks from peak search", "End of peak list")
    reflections = [x for r in results for x in r.reflections]
    assert sum(len(x) for x in reflections) == rows_between(text, "Reflections measured", "End of reflections")
    assert sum(map(int, re.findall(r"^num_reflections = (\d+)", text, flags=re.MULTILINE))) == sum(
        map(len, reflections)
    )
    assert stream.geometry_text in text


@pytest.mark.parametrize("name", REAL_STREAMS)
def test_panels_of_real_streams_give_the_printed_resolution(name: str, shared_data: Path) -> None:
    stream = read_stream(shared_data / name)
    assert stream.detector is not None
    first = next(r for r in stream.results() if len(r.peaks))
    peaks = first.peaks
    q = stream.detector.q(peaks.panel, peaks.fs, peaks.ss, first.photon_energy)
    # Camera lengths differ from frame to frame in one of them, by less than printed digits show in the first frame.
    np.testing.assert_allclose(np.linalg.norm(q, axis=1), peaks.resolution, atol=1.1e-3)


def test_predicted_reflections_of_a_real_stream_lie_near_the_ewald_sphere(shared_data: Path) -> None:
    stream = read_stream(shared_data / "lyso/reference/xgandalf_cell.stream.gz")
    widths = np.concatenate(
        [
            np.abs(reflections.excitation_error) / crystal.profile_radius
            for result in stream.results()
            for crystal, reflections in zip(result.crystals, result.reflections, strict=True)
        ]
    )
    # CrystFEL predicts to 1.7 radii, and beyond where the bandwidth makes nodes wider.
    assert np.mean(widths < 1.7) > 0.8
    assert widths.max() < 3


@pytest.mark.parametrize("name", REAL_STREAMS[:3])
def test_real_streams_survive_a_second_writing(name: str, shared_data: Path, tmp_path: Path) -> None:
    stream = read_stream(shared_data / name)
    assert stream.detector is not None
    write_stream(
        tmp_path / "again.stream",
        stream.results(),
        stream.detector,
        geometry_text=stream.geometry_text,
        cell=stream.cell,
        command=stream.command,
    )
    again = read_stream(tmp_path / "again.stream")
    for first, second in zip(stream.results(), again.results(), strict=True):
        assert_columns(second.peaks, first.peaks, dict.fromkeys(PEAK_COLUMNS, 1e-4))
        for a, b in zip(first.reflections, second.reflections, strict=True):
            assert_columns(b, a, dict.fromkeys([*REFLECTION_COLUMNS, "excitation_error"], 1e-4))
        assert [c.cell for c in second.crystals] == [c.cell for c in first.crystals]


def cut_within_reflections(text: str) -> str:
    return text[: text.index("End of reflections")]


def cut_within_chunk(text: str) -> str:
    return text[: text.index("num_peaks")]


DAMAGES: dict[str, tuple[Callable[[str], str], str]] = {
    "ends within a list": (cut_within_reflections, "ends within a list"),
    "ends within a chunk": (cut_within_chunk, "ends too early"),
    "lost end of list": (lambda text: text.replace("End of peak list\n", ""), "a list does not end"),
    "lost end of crystal": (lambda text: text.replace("--- End crystal\n", ""), "a block does not end"),
    "letters in a number": (lambda text: re.sub(r"(\n +-?\d+ +)-?\d+( +-?\d+ )", r"\1x7\2", text, count=1), "row"),
    "a column missing": (lambda text: text.replace(" upper\n", "\n", 1), "row of the list is damaged"),
    "an unknown panel": (lambda text: text.replace(" upper\n", " middle\n", 1), "unknown panel"),
    "a cell that closes not": (lambda text: text.replace("90.00000 90.00000 90.00000 deg", "30 40 170 deg"), "close"),
    "an axis missing": (lambda text: re.sub("bstar = .*\n", "", text), "'bstar' is missing"),
    "a number missing": (lambda text: re.sub("photon_energy_eV = .*", "photon_energy_eV =", text), "photon_energy_eV"),
    "an unknown lattice": (lambda text: text.replace("= tetragonal\ncentering", "= square\ncentering"), "lattice_type"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_streams_name_file_and_line(damage: str, tmp_path: Path, detector: Detector) -> None:
    alter, message = DAMAGES[damage]
    path = tmp_path / "a.stream"
    export(path, [indexed()], detector)
    whole = path.read_text()
    head, chunks = whole.split("----- Begin chunk", 1)
    damaged = head + "----- Begin chunk" + alter(chunks)
    assert damaged != whole
    path.write_text(damaged)
    with pytest.raises(StreamError, match=message) as caught:
        list(read_stream(path).results())
    assert caught.value.path == str(path)
    assert caught.value.place is not None
    line = int(caught.value.place.removeprefix("line "))
    first_difference = next(
        (i for i, (a, b) in enumerate(zip(whole.split("\n"), damaged.split("\n"), strict=False), 1) if a != b), 0
    )
    # A lost end shows a little later, a missing line where its block begins; the rest is named exactly.
    if not any(word in damage for word in ("lost", "ends", "axis")):
        assert line == first_difference
    assert damaged[: len(head)].count("\n") < line <= damaged.count("\n") + 1


def test_a_cut_gzip_file_is_an_error_with_a_line(tmp_path: Path, detector: Detector) -> None:
    path = tmp_path / "a.stream.gz"
    export(path, [indexed(i) for i in range(20)], detector)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(StreamError, match=r"line \d+.*cannot be read further"):
        list(read_stream(path).results())


@pytest.mark.parametrize("text", ["", "reflection list version 2.0\n", "CrystFEL stream format 1.0\n"])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "a.stream").write_text(text)
    with pytest.raises(StreamError, match="not a stream"):
        read_stream(tmp_path / "a.stream")


def test_a_missing_file_is_a_stream_error(tmp_path: Path) -> None:
    with pytest.raises(StreamError, match="cannot be opened"):
        read_stream(tmp_path / "none.stream")


def test_a_damaged_geometry_in_the_header_is_a_stream_error(tmp_path: Path, detector: Detector) -> None:
    path = tmp_path / "a.stream"
    export(path, [indexed()], detector)
    path.write_text(path.read_text().replace("upper/max_fs = 199", "upper/max_fs = many"))
    with pytest.raises(StreamError, match="geometry"):
        list(read_stream(path).results())
