"""The package as a whole: its public names, and how little is loaded before it is wanted."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import sfxlab

HEAVY = ("numpy", "numba", "dask", "distributed", "h5py", "pyarrow", "pydantic", "gemmi", "bokeh", "scipy")


def loaded_by(code: str) -> set[str]:
    """Modules that a fresh interpreter holds after `code`."""
    script = f"import sys\n{code}\nprint(*sys.modules, file=sys.stderr)"
    result = subprocess.run((sys.executable, "-c", script), capture_output=True, check=True, text=True)
    return set(result.stderr.split())


@pytest.mark.parametrize(
    "code",
    [
        "import sfxlab",
        "from sfxlab.cli import main; main(['--help'], standalone_mode=False)",
        "from sfxlab.cli import main; main(['process', '--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_loaded_before_it_is_wanted(code: str) -> None:
    modules = loaded_by(code)
    assert "sfxlab" in modules
    assert not modules.intersection(HEAVY)


@pytest.mark.parametrize("name", sfxlab.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(sfxlab, name)
    assert value.__module__.startswith("sfxlab.")
    assert len(inspect.getdoc(value) or "") > 20


def test_the_list_of_public_names_is_complete_and_sorted() -> None:
    assert list(sfxlab.__all__) == sorted(sfxlab._HOMES) == dir(sfxlab)


def test_simulate_is_the_function_however_it_is_first_used() -> None:
    code = "import sfxlab.simulation, sfxlab; assert callable(sfxlab.simulate), sfxlab.simulate"
    assert "sfxlab.simulation" in loaded_by(code)
    assert inspect.isfunction(sfxlab.simulate)


def test_a_name_that_is_not_there_is_an_ordinary_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'proces'"):
        _ = sfxlab.proces


def test_in_a_notebook_messages_of_other_libraries_stay_where_they_were() -> None:
    # A library that finds sys.ps1, as in a notebook, may have everybody's messages printed.
    script = "import sys, logging; sys.ps1 = '>>> '; import sfxlab; sfxlab.open_frames; print(logging.root.handlers)"
    result = subprocess.run((sys.executable, "-c", script), capture_output=True, check=True, text=True)
    assert result.stdout == "[]\n"
