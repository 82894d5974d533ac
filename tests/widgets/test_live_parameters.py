"""Parameters as controls, without a browser."""

from __future__ import annotations

from pathlib import Path
from threading import Event

import pytest

from sfxlab.errors import RecipeError
from sfxlab.indexing.reasons import Reason
from sfxlab.progress import Progress
from sfxlab.recipe import Recipe
from sfxlab.store import Run
from sfxlab.widgets import FrameViewer, LiveParameters
from sfxlab.widgets.models.frame_viewer import FrameViewerModel
from sfxlab.widgets.models.live_parameters import LiveParametersModel, Stopped, compare, controls, slider_range
from sfxlab.widgets.models.viewed_frames import PlainFrames, RunFrames, find_next


@pytest.fixture(scope="module")
def model(small_run: Run) -> LiveParametersModel:
    """Trials on the frames of a run."""
    return LiveParametersModel(FrameViewerModel(RunFrames(small_run)))


@pytest.fixture(scope="module")
def hit(model: LiveParametersModel) -> int:
    """A frame with a lattice."""
    found = find_next(model.viewer.source, -1, "hit")
    assert found is not None
    return found


def test_every_parameter_has_a_control_that_says_what_the_recipe_says() -> None:
    found = {control.name: control for control in controls(Recipe())}
    snr = found["peaks.min_snr"]
    assert (snr.kind, snr.value, snr.least, snr.section) == ("number", 5.0, 0, "peaks")
    assert snr.help.startswith("Least significance of a peak")
    assert snr.low < snr.value < snr.high
    lattices = found["indexing.max_lattices"]
    assert (lattices.kind, lattices.low, lattices.high, lattices.step) == ("whole", 1, 10, 1)
    assert found["peaks.method"].choices == ("matched", "peakfinder8")
    assert found["indexing.enabled"].kind == "switch"
    assert found["peaks.peakfinder8.min_snr"].section == "peaks.peakfinder8"
    assert not any(name.startswith("indexing.cell") for name in found)
    assert all(control.help for control in found.values())
    sections = [name for name in Recipe.model_fields if name in {c.section for c in found.values()}]
    assert sections == list(Recipe.model_fields)


def test_all_values_that_sliders_can_have_are_accepted_by_the_recipe(model: LiveParametersModel) -> None:
    # Pairs that have to be in order are changed together by people, too.
    ordered = ("pixels", "pix_count", "resolution", "background", "peak_radius", "axis")
    for control in controls(model.before):
        if control.kind in ("whole", "number") and not any(word in control.name for word in ordered):
            for value in (control.low, control.high):
                recipe = model.recipe({control.name: int(value) if control.kind == "whole" else value})
                section, *rest = control.name.split(".")
                got = getattr(recipe, section)
                for part in rest:
                    got = getattr(got, part)
                assert got == value


@pytest.mark.parametrize(
    ("default", "limits", "ends"),
    [(5.0, (0.0, None), (1.25, 20.0)), (0.0, (0.0, None), (0.0, 1.0)), (-5.0, (None, 0.0), (-20.0, -1.25))],
)
def test_sliders_reach_from_a_quarter_of_the_default_to_four_times_that(
    default: float, limits: tuple[float | None, float | None], ends: tuple[float, float]
) -> None:
    assert slider_range(default, *limits, False) == ends


def test_a_change_finds_other_peaks_and_says_why_a_frame_is_not_indexed(model: LiveParametersModel, hit: int) -> None:
    before, now = model.trial(hit, {}), model.trial(hit, {"peaks.min_snr": 12.0})
    assert before is not None
    assert now is not None
    assert 0 < len(now.peaks) < len(before.peaks)
    assert before.status == "indexed"
    few = model.trial(hit, {"peaks.max_peaks": 11, "indexing.min_peaks": 12})
    assert few is not None
    assert few.status == "hit"
    assert few.reason.startswith(Reason.TOO_FEW_PEAKS.value)


def test_a_change_back_gives_what_the_run_has(model: LiveParametersModel, hit: int) -> None:
    again = model.trial(hit, {"peaks.min_snr": model.before.peaks.min_snr})
    before = model.trial(hit, {})
    assert again is not None
    assert before is not None
    assert again.peaks.fs.tolist() == before.peaks.fs.tolist()
    assert [c.cell for c in again.crystals] == [c.cell for c in before.crystals]


@pytest.mark.parametrize("name", ["peaks.min_snar", "nothing.at.all", "peaks"])
def test_an_unknown_parameter_is_an_error_with_its_name(model: LiveParametersModel, name: str) -> None:
    with pytest.raises(RecipeError, match=name.rpartition(".")[0] or name):
        model.recipe({name: 5.0})


def test_changes_are_applied_and_compared_with_the_run(
    model: LiveParametersModel, small_run: Run, tmp_path: Path
) -> None:
    told: list[Progress] = []
    run, comparison = model.apply(
        {"hits.min_peaks": 100000}, model.numbers(True), tmp_path / "none", report=told.append
    )
    before = small_run.counts
    assert comparison.hits == (before.hits, 0)
    assert comparison.indexed == (before.indexed, 0)
    assert len(comparison.lost) == before.indexed
    assert comparison.gained == ()
    assert run.recipe.hits.min_peaks == 100000
    assert told[-1].done.frames == told[-1].total == len(small_run.frames)


def test_frames_without_a_run_are_compared_with_the_last_time(small_run: Run, tmp_path: Path) -> None:
    source = PlainFrames(small_run.open_frames()[:4], small_run.recipe)
    model = LiveParametersModel(FrameViewerModel(source))
    _, first = model.apply({"hits.min_peaks": 100000}, range(4), tmp_path / "first")
    assert first.hits == (None, 0)
    _, second = model.apply({}, range(4), tmp_path / "second")
    assert second.hits[0] == 0
    assert len(second.gained) == second.indexed[1] > 0
    assert "gained" in str(second)


def test_applying_stops_when_it_is_told_to(model: LiveParametersModel, tmp_path: Path) -> None:
    stop = Event()
    with pytest.raises(Stopped):
        model.apply({}, range(12), tmp_path / "stopped", report=lambda progress: stop.set(), stop=stop)
    assert Run(tmp_path / "stopped").record.status == "interrupted"


def test_gained_and_lost_are_told_apart() -> None:
    compared = compare((0, 5, 10), ["hit", "indexed", "indexed"], ["indexed", "blank", "indexed"], 2)
    assert (compared.gained, compared.lost) == ((0,), (5,))
    assert (compared.hits, compared.indexed) == ((3, 2), (2, 2))


def test_a_trial_is_of_200_frames_spread_over_all(small_run: Run) -> None:
    class Many(FrameViewerModel):
        def __len__(self) -> int:
            return 1999

    numbers = LiveParametersModel(Many(RunFrames(small_run))).numbers(True)
    assert len(numbers) == 200
    assert numbers[0] == 0
    assert numbers[-1] > 1700


def test_the_widget_draws_trials_in_its_viewer_and_applies_them(small_run: Run, hit: int, tmp_path: Path) -> None:
    viewer = FrameViewer(small_run, frame=hit)
    live = LiveParameters(viewer, folder=tmp_path)
    live.changes = {"peaks.min_snr": 12.0}
    result = viewer.result()
    assert result is not None
    assert len(result.peaks) < len(small_run.result(hit).peaks)
    assert live.recipe.peaks.min_snr == 12.0
    assert live.outcome["frame"] == hit
    live.changes = {"peaks.min_pixels": 100}
    viewer.result()
    assert "min_pixels" in live.message
    live.changes = {"hits.min_peaks": 100000}
    live.apply()
    live.wait(120)
    assert live.applying["state"] == "done"
    assert live.comparison["hits"][1] == 0
    assert live.run is not None
    assert viewer.result() is not None
    viewer.close()
    live.close()
