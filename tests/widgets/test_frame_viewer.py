"""What a frame viewer shows, without a browser."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfxlab.errors import FrameError
from sfxlab.frames import open_frames
from sfxlab.pipeline import FrameResult
from sfxlab.store import Run
from sfxlab.widgets import FrameViewer
from sfxlab.widgets.models.assembling import Region, plane_of
from sfxlab.widgets.models.frame_viewer import FrameViewerModel, owners
from sfxlab.widgets.models.paper_picture import PaperPicture, png_of
from sfxlab.widgets.models.viewed_frames import PlainFrames, RunFrames, find_next


@pytest.fixture(scope="module")
def model(small_run: Run) -> FrameViewerModel:
    """The frames of a run."""
    return FrameViewerModel(RunFrames(small_run))


@pytest.fixture(scope="module")
def indexed(model: FrameViewerModel) -> FrameResult:
    """The first frame with lattices."""
    number = find_next(model.source, -1, "hit")
    assert number is not None
    result = model.source.result(number)
    assert result is not None
    assert result.status == "indexed"
    return result


def test_what_a_run_has_of_a_frame_is_shown(model: FrameViewerModel, small_run: Run, indexed: FrameResult) -> None:
    marks = model.marks(indexed.index, indexed)
    table = small_run.frames.to_pylist()[indexed.index]
    assert len(marks.peaks) == table["n_peaks"]
    assert len(marks.predictions) == table["n_crystals"] == len(marks.cells)
    assert marks.sentence.startswith(f"indexed: {table['n_crystals']} lattice")
    detector, peaks = model.frame(indexed.index).detector, indexed.peaks
    metres = detector.positions(peaks.panel, peaks.fs, peaks.ss)
    plane = plane_of(detector)
    assert marks.peaks[:, 0] == pytest.approx((metres[:, 0] - plane.left) / plane.step, abs=1e-2)
    assert marks.peaks[:, 1] == pytest.approx((plane.top - metres[:, 1]) / plane.step, abs=1e-2)


def test_most_peaks_of_an_indexed_frame_belong_to_a_lattice(model: FrameViewerModel, indexed: FrameResult) -> None:
    belongs = owners(indexed, model.frame(indexed.index))
    assert np.mean(belongs >= 0) > 0.8
    assert np.bincount(belongs[belongs >= 0])[0] >= 0.9 * indexed.crystals[0].n_peaks


def test_the_pixel_under_the_pointer_tells_value_resolution_and_indices(
    model: FrameViewerModel, indexed: FrameResult
) -> None:
    frame, reflections = model.frame(indexed.index), indexed.reflections[0]
    strongest = int(np.argmax(reflections.intensity))
    place = plane_of(frame.detector).places(*(getattr(reflections, n)[[strongest]] for n in ("panel", "fs", "ss")))[0]
    pixel = model.under(indexed.index, float(place[0]), float(place[1]), indexed)
    assert pixel is not None
    assert pixel.value == frame.data[int(reflections.ss[strongest]), int(reflections.fs[strongest])]
    assert pixel.resolution == pytest.approx(1 / reflections.resolution[strongest], rel=2e-3)
    assert pixel.hkl[0] == pytest.approx(reflections.hkl[strongest], abs=0.2)
    h, k, l = reflections.hkl[strongest]  # noqa: E741
    assert f"({h} {k} {l}) I = " in str(pixel)
    assert model.under(indexed.index, -5, -5) is None


def test_single_pixels_come_with_their_values(model: FrameViewerModel) -> None:
    frame = model.frame(0)
    picture = model.picture(0, Region(100, 100, 1 / 40, 800, 600))
    x, y, value = picture.values.T
    inside = (x > 100) & (x < 120) & (y > 100) & (y < 115)
    assert np.count_nonzero(inside) == 20 * 15
    # The left panel is not turned, and its corner is that of the picture but for a pixel of the right one.
    plane = plane_of(frame.detector)
    fs_ss = [plane.pixel_at(float(a), float(b)) for a, b in zip(x[inside], y[inside], strict=True)]
    assert [frame.data[int(s), int(f)] for _, f, s in fs_ss if f is not None] == value[inside].tolist()  # type: ignore[misc]
    assert len(model.picture(0, plane.whole).values) == 0


def test_the_next_hit_and_the_next_unindexed_hit_are_found_in_both_directions(small_run: Run) -> None:
    source = RunFrames(small_run)
    statuses = small_run.frames["status"].to_pylist()
    hits = [number for number, status in enumerate(statuses) if status in ("hit", "indexed")]
    assert find_next(source, hits[0], "hit") == hits[1]
    assert find_next(source, hits[1], "hit", -1) == hits[0]
    assert find_next(source, hits[-1], "hit") is None
    unindexed = [number for number in hits if statuses[number] == "hit"]
    assert find_next(source, -1, "unindexed") == (unindexed[0] if unindexed else None)
    assert find_next(source, -1, "hit", stop=lambda: True) is None


def test_frames_without_a_run_are_processed_when_they_are_looked_at(small_run: Run, indexed: FrameResult) -> None:
    source = PlainFrames(small_run.open_frames(), small_run.recipe)
    now = source.result(indexed.index)
    assert now.status == "indexed"
    assert np.array_equal(now.peaks.fs, indexed.peaks.fs)
    assert source.result(indexed.index) is now
    assert source.status(indexed.index) == "indexed"


def test_a_frame_that_cannot_be_read_fails_and_the_next_is_shown(small_run: Run, tmp_path: Path) -> None:
    record = small_run.record
    copy = tmp_path / "cut.cxi"
    copy.write_bytes(Path(record.inputs[0]).read_bytes())
    import h5py

    with h5py.File(copy, "r+") as file:
        file["/LCLS/photon_energy_eV" if "/LCLS/photon_energy_eV" in file else _energies(file)][0] = np.nan
    model = FrameViewerModel(PlainFrames(open_frames(copy, small_run.path / "geometry.geom"), small_run.recipe))
    with pytest.raises(FrameError, match="photon energy"):
        model.picture(0, Region(0, 0, 2.0, 100, 100))
    result = model.source.result(0)
    assert result is not None
    assert model.marks(0, result).sentence.startswith("failed: ")
    assert model.picture(1, Region(0, 0, 2.0, 100, 100)).codes.shape == (100, 100)


def _energies(file: object) -> str:
    import h5py

    found: list[str] = []
    assert isinstance(file, h5py.File)
    file.visit(lambda name: found.append(name) if "energy" in name else None)
    return found[0]


def test_a_picture_for_a_paper_has_every_pixel_and_what_was_chosen(
    model: FrameViewerModel, indexed: FrameResult
) -> None:
    plane = plane_of(model.frame(indexed.index).detector)
    bare = PaperPicture(legend=False, scale_bar=False).draw(model, indexed.index, indexed)
    assert bare.size == (plane.columns, plane.rows)
    assert all(red == green == blue for _, (red, green, blue) in bare.getcolors(1 << 20) or [])
    layers = {"peaks": True, "predictions": True, "rings": True}
    full = PaperPicture(layers=layers).draw(model, indexed.index, indexed)
    assert full.height > bare.height  # the legend
    assert np.any(np.asarray(full.crop((0, 0, *bare.size))) != np.asarray(bare))
    part = PaperPicture(region=(100, 100, 150, 140), scale=4, legend=False).draw(model, indexed.index)
    assert part.size == (200, 160)
    assert Image.open(io.BytesIO(png_of(part))).size == part.size


def test_contrast_and_colours_of_the_picture_are_those_asked_for(model: FrameViewerModel) -> None:
    frame, plane = model.frame(0), plane_of(model.frame(0).detector)
    picture = PaperPicture({"low": 0, "high": 20, "gamma": 1.0, "map": "grey"}, scale_bar=False).draw(model, 0)
    grey = np.asarray(picture)[..., 0]
    x, y = 100.5, 200.5
    found = plane.pixel_at(x, y)
    assert found is not None
    value = float(frame.data[int(found[2]), int(found[1])])
    assert grey[200, 100] == pytest.approx(255 * min(value / 20, 1), abs=2)


def test_tags_are_kept_by_a_viewer_without_a_session(small_run: Run) -> None:
    viewer = FrameViewer(small_run)
    viewer.tag("ice")
    assert viewer.tags == ["ice"]
    viewer.frame = 1
    assert viewer.tags == []
    viewer.frame = 0
    viewer.untag("ice")
    assert viewer.tags == []
    assert viewer.figure(legend=False).size[0] > 500
    viewer.close()
