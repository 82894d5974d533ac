"""Bodies of a detector and their moves."""

from __future__ import annotations

import numpy as np
import pytest

from sfxlab.detector_refinement.bodies import bodies_of, centres_of, groups_of, moved, panel_moves
from sfxlab.detector_refinement.refine import moves_between
from sfxlab.errors import GeometryError
from sfxlab.geometry import Detector, parse_geometry

GEOMETRY = """
photon_energy = 9500 eV
clen = 0.1 m
res = 10000
fs = +1x
ss = +1y
corner_x = 0
corner_y = 0
min_fs = 0
max_fs = 9
""" + "".join(f"p{i}/min_ss = {10 * i}\np{i}/max_ss = {10 * i + 9}\n" for i in range(4))  # fmt: skip


def test_moves_of_bodies_are_moves_of_their_panels_to_first_order(four_panels: Detector) -> None:
    bodies = bodies_of(four_panels, [[0, 1]], "panels", out_of_plane=True)
    assert [body.name for body in bodies] == ["detector", "group 0", "p0", "p1", "p2", "p3"]
    matrix = panel_moves(bodies, centres_of(four_panels))
    turn = 1e-4
    step = np.zeros((6, 6))
    step[0, 3] = turn  # the whole detector about x
    after = moved(four_panels, (matrix @ step.ravel()).reshape(-1, 6))
    middle = centres_of(four_panels).mean(axis=0)
    cos, sin = np.cos(turn), np.sin(turn)
    about_x = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    np.testing.assert_allclose(centres_of(after), (centres_of(four_panels) - middle) @ about_x.T + middle, atol=1e-9)
    np.testing.assert_allclose(after.arrays.fs, four_panels.arrays.fs @ about_x.T, atol=1e-12)


def test_the_moves_between_two_detectors_are_those_that_were_made(four_panels: Detector) -> None:
    made = np.array([[1e-4, -2e-4, 3e-4, 0.001, -0.002, 0.003]] * 4) * np.arange(4)[:, None]
    found = moves_between(four_panels, moved(four_panels, made))
    np.testing.assert_allclose(found[:, :3], made[:, :3] / 1e-4, atol=1e-9)
    np.testing.assert_allclose(found[:, 3:], np.degrees(made[:, 3:]), atol=1e-9)


def test_groups_are_those_between_one_panel_and_all() -> None:
    text = GEOMETRY + "group_a = p0,p1\ngroup_b = p2,p3\ngroup_one = p3\ngroup_all = a,b\n"
    assert groups_of(parse_geometry(text)) == [[0, 1], [2, 3]]
    assert groups_of(parse_geometry(GEOMETRY)) == []


def test_groups_that_contain_one_another_are_refused() -> None:
    geometry = parse_geometry(GEOMETRY + "group_a = p0,b\ngroup_b = a,p1\n")
    with pytest.raises(GeometryError, match="contain one another"):
        groups_of(geometry)
