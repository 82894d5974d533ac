"""Cells of crystals: linked histograms, what a range selects, fits, proposals and what is saved."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfxlab.crystal import UnitCell, read_cell
from sfxlab.errors import CellError, OutputExistsError
from sfxlab.pipeline import FrameResult
from sfxlab.session import NotAllowedError, Person, Session
from sfxlab.store import Run
from sfxlab.widgets.cell_explorer import CellExplorer
from sfxlab.widgets.models.cell_explorer import CrystalCells, histograms, save, why_of

SMALL = UnitCell(40, 40, 30, lattice_type="tetragonal", unique_axis="c")
LARGE = UnitCell(52, 52, 71, lattice_type="tetragonal", unique_axis="c")


@pytest.fixture
def run(make_run: Callable[..., Run], make_result: Callable[..., FrameResult]) -> Run:
    """Forty crystals of one form and twenty of another, in turn."""
    made = make_run(60, 20)
    with made.writing():
        for chunk in range(3):
            frames = range(20 * chunk, 20 * chunk + 20)
            made.write_chunk(chunk, [make_result(i, cell=LARGE if i % 3 == 2 else SMALL) for i in frames])
    return made


@pytest.fixture
def cells(run: Run) -> CrystalCells:
    return CrystalCells.of_run(run)


def test_every_crystal_is_in_every_histogram_once(cells: CrystalCells) -> None:
    found = histograms(cells, {}, near=np.ones(len(cells), dtype=bool))
    for i, name in enumerate(("a", "b", "c")):
        edges, values = found.edges[name], cells.parameters[:, i]
        assert np.array_equal(found.every[name], np.histogram(values, edges)[0])
        assert found.counts[name].sum() == len(cells)


def test_a_range_of_one_parameter_filters_the_others_and_not_itself(cells: CrystalCells) -> None:
    ranges = {"c": (60.0, 80.0)}
    found = histograms(cells, ranges)
    assert found.counts["c"].sum() == 60
    assert found.counts["a"].sum() == 20
    inside = found.edges["a"][1:][found.counts["a"].sum(axis=0) > 0]
    assert inside.min() > 50
    assert cells.passing(ranges).tolist() == [i % 3 == 2 for i in range(60)]
    with pytest.raises(CellError, match="unknown cell parameters"):
        cells.passing({"d": (1.0, 2.0)})


def test_clusters_tell_two_forms_of_the_same_lattice_apart(cells: CrystalCells) -> None:
    assert cells.lattices.names == ("tetragonal P",)
    clusters = cells.clusters
    assert [np.count_nonzero(clusters.of == i) for i in range(len(clusters.names))] == [40, 20, 0]
    assert (clusters.of == 1).tolist() == [i % 3 == 2 for i in range(60)]
    by_cluster = histograms(cells, {}, "cluster")
    assert by_cluster.counts["a"].sum(axis=1).tolist() == [40, 20, 0]


def test_a_fit_is_that_of_the_selected_crystals(cells: CrystalCells) -> None:
    chosen = cells.passing({"a": (50.0, 55.0)})
    fit = cells.fit(chosen)
    assert fit.n_crystals == 20
    assert fit.cell.a == fit.cell.b == pytest.approx(52, abs=0.05)
    assert fit.median == pytest.approx(np.median(cells.parameters[chosen], axis=0))
    with pytest.raises(CellError, match="no crystal is selected"):
        cells.fit(cells.passing({"a": (1.0, 2.0)}))


def test_proposals_have_the_lattice_that_crystals_share(cells: CrystalCells) -> None:
    proposals = cells.propose(np.ones(len(cells), dtype=bool))
    assert [p.n_crystals for p in proposals[1:]] == [40, 20]
    for proposal, truth in zip(proposals[1:], (SMALL, LARGE), strict=True):
        assert proposal.cell.lattice_type == "tetragonal"
        assert proposal.cell.parameters == pytest.approx(truth.parameters, abs=0.05)


def test_a_saved_cell_is_read_back_and_not_overwritten(cells: CrystalCells, tmp_path: Path) -> None:
    cell = cells.fit(cells.passing({"a": (50.0, 55.0)})).cell
    path = save(cell, tmp_path / "large")
    assert path.name == "large.cell"
    again = read_cell(path)
    assert again.parameters == pytest.approx(cell.parameters, abs=1e-4)
    assert (again.lattice_type, again.centring) == ("tetragonal", "P")
    with pytest.raises(OutputExistsError):
        save(cell, path)


def test_ranges_are_told_in_words() -> None:
    assert why_of({"gamma": [89.5, 90.5], "a": [78.9, 79.31234567]}) == "a 78.9–79.3123 Å, γ 89.5–90.5 °"
    assert why_of({}) == ""


def test_brushing_selects_the_same_crystals_for_everybody(
    run: Run, tmp_path: Path, until: Callable[[Callable[[], bool]], None]
) -> None:
    catalogue = f"sqlite:///{tmp_path / 'sessions.sqlite'}"
    with Session("beamtime", catalogue, "anna") as anna, Session("beamtime", catalogue, "ben") as ben:
        hers, his = CellExplorer(run, anna), CellExplorer(run, ben)
        hers.brush({"c": (60, 80)})
        until(lambda: his.n_selected == 20 and his.ranges == {"c": [60.0, 80.0]})
        assert ben.get("selection") == {
            "kind": "crystal", "items": [i for i in range(60) if i % 3 == 2], "why": "c 60–80 Å"
        }  # fmt: skip
        # What others select by frames is shown, too.
        ben.set("selection", {"kind": "frame", "items": [0, 2, 5, 1000], "why": "chosen in the table"})
        until(lambda: hers.selection["why"] == "chosen in the table")
        assert np.flatnonzero(hers.selected).tolist() == [2, 5]  # within the range still
        his.brush({})
        until(lambda: hers.n_selected == 60)
        hers.save(tmp_path / "mean.cell")
        assert read_cell(tmp_path / "mean.cell").lattice_type == "tetragonal"
        until(lambda: his.chosen.get("path") == str(tmp_path / "mean.cell"))
        assert anna.records("cell")[0].person == "anna"
        hers.close()
        his.close()


def test_a_late_joiner_sees_the_ranges_of_before(run: Run, tmp_path: Path) -> None:
    catalogue = f"sqlite:///{tmp_path / 'sessions.sqlite'}"
    with Session("beamtime", catalogue, "anna") as anna:
        first = CellExplorer(run, anna)
        first.brush({"a": (39, 41)})
        first.close()
    with Session("beamtime", catalogue, "carol") as carol:
        later = CellExplorer(run, carol)
        assert later.n_selected == 40
        assert later.figures["fit"]["n"] == 40
        later.figure()
        later.close()


def test_a_viewer_sees_what_others_brush_and_brushes_nothing(
    run: Run, tmp_path: Path, until: Callable[[Callable[[], bool]], None]
) -> None:
    catalogue = f"sqlite:///{tmp_path / 'sessions.sqlite'}"
    viewer = Person("vera", "Vera V.", "viewer")
    with Session("beamtime", catalogue, "anna") as anna, Session("beamtime", catalogue, viewer) as vera:
        hers, looking = CellExplorer(run, anna), CellExplorer(run, vera)
        assert looking.disabled
        hers.brush({"c": (60, 80)})
        until(lambda: looking.n_selected == 20)
        looking.brush({"a": (39, 41)})
        assert "vera, viewer" in looking.message
        assert looking.ranges == anna.get("cells.ranges") == {"c": [60.0, 80.0]}
        assert looking.n_selected == 20
        for asked in ({"kind": "brush", "ranges": {}}, {"kind": "save", "path": str(tmp_path / "viewer.cell")}):
            looking._heard(None, asked, [])  # the page of a viewer has no such controls
        assert not (tmp_path / "viewer.cell").exists()
        with pytest.raises(NotAllowedError, match="vera, viewer"):
            looking.save(tmp_path / "viewer.cell")
        assert anna.records("cell") == []
        assert anna.get("cells.chosen") is None
        for one in (hers, looking):
            one.close()
