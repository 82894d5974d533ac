"""The HTML report of a run."""

from __future__ import annotations

import base64
import html
import io
import re
import shutil
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from sfxlab.bad_pixels import LearnedMask
from sfxlab.crystal import Crystal, UnitCell, point_group, possible_reflections
from sfxlab.errors import OutputExistsError, RunError
from sfxlab.frames import open_frames
from sfxlab.integration import Reflections
from sfxlab.merging import Intensities, Merged
from sfxlab.peaks import Peaks
from sfxlab.pipeline import FrameResult
from sfxlab.recipe import Recipe
from sfxlab.report import write_report
from sfxlab.report.charts import robust_deviation
from sfxlab.report.pictures import mean_png, peaks_by_resolution, powder_png, results_at, spread
from sfxlab.store import Run, describe, kind_of_reason

SIZE, FRAMES, CHUNK = 64, 24, 10
GEOMETRY = f"""photon_energy = 9500 eV
clen = 0.05 m
res = 2000
adu_per_photon = 1
data = /data
dim0 = %
dim1 = ss
dim2 = fs
p/min_fs = 0
p/max_fs = {SIZE - 1}
p/min_ss = 0
p/max_ss = {SIZE - 1}
p/fs = 1x
p/ss = 1y
p/corner_x = -{SIZE / 2}
p/corner_y = -{SIZE / 2}
"""
CELL = UnitCell(79, 79, 38, lattice_type="tetragonal", unique_axis="c")
MakeRun = Callable[..., Run]


def spots(kind: type, n: int, seed: int) -> object:
    """Spots of all sorts, at random places."""
    rng = np.random.default_rng(seed)
    some = kind(*(np.ones(n, dtype=np.float32) for _ in fields(kind)))
    places = {name: rng.uniform(0, SIZE, n).astype(np.float32) for name in ("fs", "ss")}
    resolution = rng.uniform(0.05, 0.4, n).astype(np.float32)
    integers = {name: np.ones(n, np.int32) for name in ("h", "k", "l") if hasattr(some, name)}
    return replace(some, panel=np.zeros(n, np.int16), resolution=resolution, **places, **integers)


def result(source: object, i: int) -> FrameResult:
    """Every fourth frame is blank, every fourth a hit without lattice, number 23 has failed."""
    status = "failed" if i == 23 else ("blank", "hit", "indexed", "indexed")[i % 4]
    reason = {"hit": f"too few peaks: {5 + i % 3}, at least 8 needed", "failed": "<b>filter 32008</b> is missing"}
    lattices = status == "indexed"
    cell = replace(CELL, a=79 + 0.01 * i, b=79 + 0.01 * i)
    return FrameResult(
        source.identity(i),
        i,
        status,
        reason.get(status, ""),
        9500.0,
        0.05,
        Peaks.empty() if status == "failed" else spots(Peaks, 3 if status == "blank" else 30, i),
        (Crystal(cell, cell.reciprocal_basis, 0.002),) * lattices,
        (spots(Reflections, 40, i),) * lattices,
        {"peaks": 0.002, **({"indexing": 0.005} if lattices else {})},
    )


def build(folder: Path, chunks: tuple[int, ...] = (0, 1, 2), results: Callable[..., FrameResult] = result) -> Run:
    """A run with some of its three chunks, over a file of random frames."""
    path = folder / "a&b.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.random.default_rng(0).poisson(4, (FRAMES, SIZE, SIZE)).astype(np.uint16)
    (folder / "p.geom").write_text(GEOMETRY)
    source = open_frames([str(path)], folder / "p.geom")
    names = [source.identity(i) for i in range(FRAMES)]
    record = describe(
        Recipe().with_cell(CELL),
        names,
        n_frames=FRAMES,
        chunk_size=CHUNK,
        paths=source.paths,
        geometry_text=GEOMETRY,
        command=["sfxlab", "process", "a&b.h5"],
    )
    run = Run.create(folder / "run", record, names, GEOMETRY)
    with run.writing():
        for chunk in chunks:
            run.write_chunk(chunk, [results(source, i) for i in record.frames_of(chunk)])
    return run


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a run that a test may change."""
    return lambda *content: build(tmp_path, *content)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run to read only."""
    return build(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def page(run: Run) -> str:
    """The report of the run to read only."""
    return page_of(run)


def page_of(run: Run) -> str:
    return write_report(run, run.path.parent / "report.html").read_text(encoding="utf-8")


def text_of(page: str) -> str:
    """What a reader sees, without tags, scripts and styles."""
    body = page[page.index("<body>") :]
    body = re.sub(r"<(script|style).*?</\1>", " ", body, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def pictures_in(page: str) -> list[Image.Image]:
    found = re.findall(r'<img src="data:image/png;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_page_is_whole_small_and_needs_no_network(page: str) -> None:
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    assert len(page) < 5e6
    assert not re.search(r"<(?:script|img|link|iframe)[^>]*(?:src|href)=[\"'](?!data:)", page)
    assert not re.search(r"@import|url\(", page[: page.index("</style>")])
    assert page.count("Bokeh") > 5


def test_headline_figures_are_those_of_the_run(run: Run, page: str) -> None:
    text = text_of(page)
    assert run.counts.hits == 17
    for figure in ("frames 24", "hits 17 70.8% of frames", "indexed 11 64.7% of hits", "lattices 11", "failed 1 4.2%"):
        assert figure in text


def test_reasons_are_counted_by_kind_and_never_become_markup(page: str) -> None:
    assert "too few peaks 6" in text_of(page)
    assert "<b>filter" not in page
    assert "<b>filter …</b> is missing 1" in text_of(page)


def test_cells_recipe_and_provenance_are_told(run: Run, page: str) -> None:
    text = text_of(page)
    median = np.median(run.crystals["a"].to_numpy())
    assert f"a {median:.3f} Å" in text
    assert "11 of 11 lattices are tetragonal P" in text
    assert "min_peaks = 10" in text
    assert "sfxlab process a&b.h5" in text
    (file,) = run.record.files
    assert file.sha256 is not None
    assert file.sha256 in text
    assert f"numpy {np.__version__}" in text
    assert "peaks 2.0 ms 24" in text


def test_pictures_are_the_peaks_the_mean_and_six_examples(page: str) -> None:
    assert len(pictures_in(page)) == 8
    assert "a&b.h5 //2: 30 peaks, 1 lattice" in text_of(page)
    assert "Mean of 17 hits" in text_of(page)


def test_learned_bad_pixels_are_counted_by_panel_and_drawn(make_run: MakeRun) -> None:
    run = make_run()
    assert "<h2>Bad pixels</h2>" not in page_of(run)
    kinds = np.zeros((SIZE, SIZE), dtype=np.uint8)
    kinds[3, 4:9], kinds[20, 20] = 1, 2
    counts = np.full(kinds.shape, FRAMES, dtype=np.uint16)
    LearnedMask(kinds, counts, counts, FRAMES, ("1 < 2",)).save(run.path / "bad_pixels.h5")
    page = write_report(run, run.path.parent / "second.html").read_text(encoding="utf-8")
    text = text_of(page)
    assert f"Learned from {FRAMES} frames" in text
    assert "1 &lt; 2" in page
    for row in (r"whole detector\s+5\s+1\s+0\s+0", r"\bp\s+5\s+1\s+0\s+0"):
        assert re.search(row, text)
    assert len(pictures_in(page)) == 9


def test_inputs_that_are_gone_are_said_in_place_of_pictures(make_run: MakeRun) -> None:
    run = make_run()
    (run.path.parent / "a&b.h5").unlink()
    page = page_of(run)
    assert len(pictures_in(page)) == 1  # the map of peaks needs the geometry only
    assert "The frames cannot be read again." in text_of(page)
    assert str(run.path.parent / "a&b.h5") in text_of(page)


def test_a_run_can_be_reported_while_it_grows(make_run: MakeRun) -> None:
    text = text_of(page_of(make_run((0,))))
    assert "frames 10 of 24, interrupted" in text


@pytest.mark.parametrize("chunks", [(), (0, 1, 2)])
def test_runs_without_hits_or_frames_are_reported(make_run: MakeRun, chunks: tuple[int, ...]) -> None:
    def blank(source: object, i: int) -> FrameResult:
        return FrameResult(source.identity(i), i, "blank")

    text = text_of(page_of(make_run(chunks, blank)))
    assert "No lattice was found." in text
    assert "There are no hits." in text


def merged_data() -> Merged:
    group = point_group("4/mmm")
    hkl = possible_reflections(CELL, group, 0.4, 0.05)
    rng = np.random.default_rng(0)
    truth = rng.exponential(100, len(hkl))
    halves = [
        Intensities(truth + rng.normal(0, 10, len(hkl)), np.full(len(hkl), 10.0), np.full(len(hkl), 3, np.int32))
        for _ in range(2)
    ]
    mean, n = (halves[0].intensity + halves[1].intensity) / 2, np.full(len(hkl), 6, np.int32)
    history = {"model": "scaled", "inputs": "<run>", "crystals": {"used": 90, "rejected": ["bad"] * 200}}
    return Merged(hkl, mean, np.full(len(hkl), 7.0), n, *halves, CELL, group, "P4/mmm", history=history)


def test_merged_data_are_reported_with_or_without_a_run(run: Run, tmp_path: Path) -> None:
    merged = merged_data()
    overall = merged.statistics().overall
    for beside in (None, run):
        path = write_report(beside, tmp_path / f"merged{beside is None}.html", merged)
        page = path.read_text(encoding="utf-8")
        text = text_of(page)
        assert f"CC1/2 {overall.cc_half:.3f}" in text
        assert f"Rsplit {overall.rsplit:.1%}" in text
        assert "multiplicity 6.0" in text
        for shell in merged.statistics().shells:
            assert f"{shell.d_max:.2f} – {shell.d_min:.2f} {shell.n_unique:,}" in text
        assert "inputs <run> crystals, used 90 crystals, rejected 200" in text
        assert "<run>" not in page


def test_a_report_of_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to report"):
        write_report(None, tmp_path / "report.html")


def test_a_report_is_not_overwritten_without_being_asked(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(OutputExistsError):
        write_report(run, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text() == "mine"
    write_report(run, tmp_path / "report.html", overwrite=True)
    assert "</html>" in (tmp_path / "report.html").read_text()


def test_a_run_can_be_moved_with_its_report_still_to_be_written(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    shutil.move(run.path, tmp_path / "elsewhere")
    assert len(pictures_in(page_of(Run(tmp_path / "elsewhere")))) == 8


def test_peaks_by_resolution_count_every_peak(run: Run) -> None:
    found = peaks_by_resolution(run)
    assert found.sum() == len(run.peaks)
    expected, _ = np.histogram(run.peaks["resolution"].to_numpy(), bins=np.arange(0, 0.5, 0.002))
    assert np.abs(found[: len(expected)] - expected).sum() <= 4  # single precision at the edges of bins


def test_the_powder_is_shown_where_its_peaks_are(run: Run) -> None:
    detector = run.open_frames().detector
    powder = np.zeros(detector.shape)
    assert powder_png(powder, detector, 64) is None
    powder[10, 50] = 1000.0  # this geometry has x along fs and y, upwards, along ss
    png = powder_png(powder, detector, 64)
    assert png is not None
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("L"))
    assert picture.shape == (64, 64)
    assert np.unravel_index(picture.argmin(), picture.shape) == (63 - 10, 50)


def test_the_mean_leaves_out_what_cannot_be_read(run: Run) -> None:
    source = run.open_frames()
    found = mean_png(source, [0, 3, 7], 64)
    assert found is not None
    assert found[1] == 3
    assert mean_png(source, [], 64) is None


def test_results_are_found_in_their_chunks(run: Run) -> None:
    assert [r.index for r in results_at(run, [2, 3, 22])] == [2, 3, 22]


def test_indices_are_spread_evenly() -> None:
    assert spread(np.arange(100), 5) == [0, 25, 50, 74, 99]
    assert spread(np.array([3, 5]), 5) == [3, 5]
    assert spread(np.array([], dtype=int), 5) == []


def test_reasons_are_alike_where_only_numbers_differ() -> None:
    assert kind_of_reason("11 peaks, 15 needed") == kind_of_reason("9 peaks, 15 needed") == "… peaks, … needed"
    assert kind_of_reason("best cell 4.1 % off in a") == "best cell … % off in a"


def test_the_robust_deviation_is_that_of_the_normal_part() -> None:
    values = np.random.default_rng(0).normal(79, 0.1, 4000)
    values[:200] = 120
    assert robust_deviation(values) == pytest.approx(0.1, rel=0.12)
