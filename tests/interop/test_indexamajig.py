"""Recipes from command lines of indexamajig."""

import pytest

from sfxlab.errors import RecipeError, SfxlabWarning
from sfxlab.interop.indexamajig import recipe_from_indexamajig
from sfxlab.interop.stream_reader import read_stream
from sfxlab.recipe import Recipe

USUAL = (
    "/opt/bin/indexamajig -i 'my files.lst' -g a.geom -o a.stream -j8 --peaks=peakfinder8 --threshold=12 --min-snr 6.5"
    " --min-pix-count=1 --max-pix-count=50 --local-bg-radius=5 --min-res=40 --max-res=800 --min-peaks=15"
    " --int-radius=3,5,8 --tolerance=4,5,6,1,2,3 --highres=2 -p a.cell --multi"
)


def test_what_both_programs_know_is_taken_over():
    recipe = recipe_from_indexamajig(USUAL)
    assert recipe == Recipe().changed(
        peaks={
            "method": "peakfinder8",
            "max_resolution": 0.5,
            "peakfinder8": {
                "threshold": 12, "min_snr": 6.5, "min_pix_count": 1, "max_pix_count": 50, "local_bg_radius": 5,
                "min_res": 40, "max_res": 800,
            },
        },
        hits={"min_peaks": 15},
        indexing={"length_tolerance": 0.06, "angle_tolerance": 3},
        integration={"peak_radius": 3, "background_inner": 5, "background_outer": 8, "max_resolution": 0.5},
    )  # fmt: skip


def test_switches_and_defaults_are_those_of_indexamajig():
    recipe = recipe_from_indexamajig("--peaks=peakfinder8 --peakfinder8-fast --no-use-saturated")
    assert recipe.peaks.peakfinder8.fast
    assert recipe.peaks.peakfinder8.threshold == 800
    assert not recipe.peaks.use_saturated
    assert recipe.indexing.max_lattices == 1
    older = recipe_from_indexamajig("indexamajig --peaks=peakfinder8 --tolerance=4,5,6,2").indexing
    assert (older.length_tolerance, older.angle_tolerance) == (0.06, 2)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ("--indexing=xgandalf", "--indexing=xgandalf"),
        ("--no-retry", "--no-retry"),
        ("--push-res 1.5", "--push-res=1.5"),
        ("--peaks=zaef --min-squared-gradient=1000", "--peaks=zaef"),
    ],
)
def test_each_option_that_is_left_out_is_named(more, told):
    with pytest.warns(SfxlabWarning) as caught:
        recipe_from_indexamajig(f"indexamajig --peaks=peakfinder8 {more}")
    assert any(told in str(warning.message) for warning in caught)


def test_a_streams_own_command_line_gives_its_recipe(shared_data):
    stream = read_stream(shared_data / "lyso/reference/peaks.stream.gz")
    with pytest.warns(SfxlabWarning, match="--indexing=none"):
        recipe = recipe_from_indexamajig(stream.command)
    assert recipe.hits.min_peaks == 10
    assert recipe.peaks.method == "peakfinder8"
    assert recipe.peaks.peakfinder8.model_dump() == {
        "threshold": 4.0, "min_snr": 5.0, "min_pix_count": 2, "max_pix_count": 40, "local_bg_radius": 4, "min_res": 30,
        "max_res": 0, "fast": False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("", "no command line of indexamajig"),
        ("partialator -i a.stream", "no command line of indexamajig"),
        ("indexamajig -i 'a.lst", "cannot be taken apart"),
        ("indexamajig --peaks=peakfinder8 --threshold=high", "peaks.peakfinder8.threshold"),
        ("indexamajig --peaks=peakfinder8 --int-radius=3,4", "--int-radius"),
        ("indexamajig --peaks=peakfinder8 --highres=0", "--highres"),
        ("indexamajig --peaks=peakfinder8 --int-radius=5,4,3", "integration"),
    ],
)
def test_what_makes_no_sense_is_refused(command, problem):
    with pytest.raises(RecipeError, match=problem):
        recipe_from_indexamajig(command)
