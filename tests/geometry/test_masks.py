import numpy as np
import pytest

from sfxlab.geometry import parse_geometry
from sfxlab.geometry.masks import geometry_bad_map, masked


def test_a_plain_geometry_has_no_bad_pixels(two_panels):
    assert not geometry_bad_map(parse_geometry(two_panels)).any()


def test_pixels_of_no_panel_are_bad(two_panels):
    bad = geometry_bad_map(parse_geometry(two_panels.replace("left/max_fs = 2", "left/max_fs = 1")))
    assert bad[:, 2].all()
    assert bad.sum() == 8


def test_edges_and_panels_not_to_index_are_bad(two_panels):
    bad = geometry_bad_map(parse_geometry(two_panels + "left/mask_edge_pixels = 1\nright/no_index = 1\n"))
    assert bad[:, 3:].all()
    assert (bad[1:-1, 1] == 0).all()
    assert bad.sum() == 24 + 24 - 6


def test_a_region_in_file_coordinates_is_bad_on_its_panel_only(two_panels):
    region = "bad1/panel = right\nbad1/min_fs = 0\nbad1/max_fs = 4\nbad1/min_ss = 6\nbad1/max_ss = 90\n"
    bad = geometry_bad_map(parse_geometry(two_panels + region))
    assert np.argwhere(bad).tolist() == [[6, 3], [6, 4], [7, 3], [7, 4]]


def test_a_region_in_the_laboratory_is_bad_on_all_panels(two_panels):
    # Pixel centres: x = -3 … -1 on the left, 1 … 3 on the right; y = 3.5 … -3.5 downwards.
    region = "bad1/min_x = -1.5\nbad1/max_x = 1\nbad1/min_y = 2.5\nbad1/max_y = 100\n"
    bad = geometry_bad_map(parse_geometry(two_panels + region))
    assert np.argwhere(bad).tolist() == [[0, 2], [0, 3], [1, 2], [1, 3]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.int64, np.float32])
def test_masks_of_any_type_follow_good_and_bad_bits(dtype):
    values = np.array([0, 1, 2, 3], dtype=dtype)
    assert masked(values, 0, 0xFFFFFFFF).tolist() == [False, True, True, True]
    assert masked(values, 1, 0).tolist() == [True, False, True, False]
    assert masked(values, 1, 2).tolist() == [True, False, True, True]
    assert masked(values, 0, 0).tolist() == [False] * 4


def test_good_bits_that_a_mask_cannot_have_make_all_bad():
    assert masked(np.array([255], dtype=np.uint8), 0x100, 0).all()
