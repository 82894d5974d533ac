from pathlib import Path

import numpy as np
import pytest

from sfxlab.errors import GeometryError, SfxlabWarning
from sfxlab.geometry import Geometry, parse_geometry, read_geometry
from sfxlab.geometry.geometry import BadArea, BadPixels, Flag, Group, MaskSource

ONE_PANEL = """photon_energy = 9300 eV
clen = 0.1502
res = 13333.333
p0/min_fs = 0
p0/max_fs = 1023
p0/min_ss = 0
p0/max_ss = 511
p0/coffset = 0.0005
p0/corner_x = -500.25
p0/corner_y = 20.5
p0/fs = +0.99998015x +0.0063y
p0/ss = -0.0063x +0.99998015y
"""


def with_line(text: str, line: str) -> str:
    """The text with a line before its first panel, so that it is a default."""
    head, panels = text.split("p0/", 1)
    return f"{head}{line}\np0/{panels}"


def without(text: str, key: str) -> str:
    return "\n".join(line for line in text.splitlines() if not line.startswith(key))


@pytest.mark.parametrize(
    ("fs", "ss", "q", "inverse_d"),
    [
        (100.5, 200.5, (-0.14595474, 0.08066486, -0.01877228), 0.1678154),
        (767.0, 12.25, (0.09866268, 0.0139052, -0.00664706), 0.0998592),
    ],
)
def test_scattering_vectors_are_those_of_the_methods_appendix(fs, ss, q, inverse_d):
    # METHODS.md A1, A2
    detector = parse_geometry(ONE_PANEL).detector(0.1502)
    found = detector.q(np.array([0]), np.array([fs]), np.array([ss]), 9300.0)[0]
    assert found == pytest.approx(q, abs=1e-8)
    assert np.linalg.norm(found) == pytest.approx(inverse_d, abs=1e-7)


def test_vectors_are_used_as_given_and_never_normalised():
    geometry = parse_geometry(ONE_PANEL.replace("+0.99998015x +0.0063y", "2x"))
    assert geometry.panels[0].panel.fs == pytest.approx((2 / 13333.333, 0, 0))


@pytest.mark.parametrize(
    ("text", "vector"),
    [
        ("-0.0010x +0.9999y +0.0z", (-0.001, 0.9999, 0)),
        ("x", (1, 0, 0)),
        ("- y", (0, -1, 0)),
        ("1e-3x-9.99999e-1y", (0.001, -0.999999, 0)),
        ("+.5z + 1.x", (1, 0, 0.5)),
    ],
)
def test_vectors_may_be_written_in_many_ways(text, vector):
    geometry = parse_geometry(
        with_line(without(ONE_PANEL, "p0/fs"), f"fs = {text}").replace("res = 13333.333", "res = 1")
    )
    assert geometry.panels[0].panel.fs == pytest.approx(vector)


def test_a_default_holds_only_for_panels_first_mentioned_after_it():
    text = (
        ONE_PANEL
        + "max_adu = 5\np0/max_adu = 7\np1/min_fs = 0\nmax_adu = 9\np1/max_fs = 3\n"
        + ("p1/min_ss = 512\np1/max_ss = 515\np1/corner_x = 0\np1/corner_y = 0\np1/fs = x\np1/ss = y\n")
    )
    geometry = parse_geometry(text)
    assert [p.panel.max_adu for p in geometry.panels] == [7, 5]
    without_own = parse_geometry(text.replace("p0/max_adu = 7\n", ""))
    assert [p.panel.max_adu for p in without_own.panels] == [np.inf, 5]


def test_a_saturation_map_belongs_to_a_panel_and_may_be_in_a_file_of_its_own():
    text = with_line(ONE_PANEL, "saturation_map = /a\nsaturation_map_file = a.h5")
    (panel,) = parse_geometry(text).panels
    assert (panel.saturation_map, panel.saturation_map_file) == ("/a", "a.h5")
    (panel,) = parse_geometry(text + "p0/saturation_map = /%/b\n").panels
    assert (panel.saturation_map, panel.saturation_map_file) == ("/%/b", "a.h5")
    with pytest.raises(GeometryError, match="the saturation map has a file but no path in it"):
        parse_geometry(with_line(ONE_PANEL, "saturation_map_file = a.h5"))


def test_comments_blanks_hexadecimal_numbers_and_windows_line_ends_are_understood():
    text = with_line(ONE_PANEL, "mask = /m ; where\nmask_file=m.h5\n  mask_good =  0x0001  \n\nmask_bad = 65534")
    geometry = parse_geometry("\ufeff; first\n".lstrip("\ufeff") + text.replace("\n", "\r\n"))
    assert geometry.panels[0].masks == (MaskSource(0, "/m", "m.h5", 1, 0xFFFE),)
    assert geometry.panels[0].panel.columns == 1024


def test_all_masks_flags_and_regions_are_read():
    text = with_line(
        ONE_PANEL,
        "mask0_data = /a\nmask0_badbits = 0xff\nmask7_data = /b/%\nmask7_goodbits = 2\n"
        "flag_equal = 3\nflag_equal = 4\nflag_lessthan = -10.5\nmask_edge_pixels = 2\nno_index = true",
    )
    text += (
        "bad_1/panel = p0\nbad_1/min_fs = 1\nbad_1/max_fs = 2\nbad_1/min_ss = 3\nbad_1/max_ss = 4\n"
        "bad_stop/min_x = -20\nbad_stop/max_x = 20.5\nbad_stop/min_y = -1e3\nbad_stop/max_y = 7\n"
    )
    geometry = parse_geometry(text)
    panel = geometry.panels[0]
    assert panel.masks == (MaskSource(0, "/a", None, 0, 0xFF), MaskSource(7, "/b/%", None, 2, 0))
    assert set(panel.flags) == {Flag("equal", 3), Flag("equal", 4), Flag("lessthan", -10.5)}
    assert (panel.mask_edge_pixels, panel.no_index) == (2, True)
    assert geometry.bad_regions == (
        BadPixels("bad_1", "p0", 1, 2, 3, 4),
        BadArea("bad_stop", -20, 20.5, -1000, 7),
    )


@pytest.mark.parametrize(
    ("line", "electronvolts"),
    [
        ("photon_energy = 9500", 9500),
        ("photon_energy = 9.5 keV", 9500),
        ("wavelength = 1.3051 A", 12398.4198 / 1.3051),
        ("wavelength = 1.3051e-10", 12398.4198 / 1.3051),
        ("electron_voltage = 200 kV", 12398.4198 / 0.0250793),  # λ of 200 kV electrons is 2.50793 pm
    ],
)
def test_photon_energy_is_understood_in_all_its_forms(line, electronvolts):
    quantity = parse_geometry(ONE_PANEL.replace("photon_energy = 9300 eV", line)).photon_energy
    assert quantity.convert(quantity.value) == pytest.approx(electronvolts, rel=1e-5)


@pytest.mark.parametrize(
    ("value", "number", "metres"),
    [("0.06", 0.06, 0.06), ("60 mm", 60, 0.06), ("/d/z", -420.0, -0.42), ("/d/z m", 0.06, 0.06)],
)
def test_camera_length_without_unit_is_metres_as_a_number_and_millimetres_at_a_path(value, number, metres):
    quantity = parse_geometry(ONE_PANEL.replace("clen = 0.1502", f"clen = {value}")).camera_length
    assert quantity.convert(number) == pytest.approx(metres)


def test_clen_of_each_panel_is_taken_with_a_warning_where_all_agree():
    text = ONE_PANEL.replace("clen = 0.1502\n", "") + "p0/clen = 0.1502\n"
    with pytest.warns(SfxlabWarning, match="clen belongs to the whole detector"):
        assert parse_geometry(text).camera_length.value == 0.1502


def test_panels_with_different_clen_are_refused(two_panels):
    with pytest.raises(GeometryError, match=r"panel right: panels have different camera lengths[\s\S]*coffset"):
        parse_geometry(two_panels + "right/clen = 0.2\n", "a.geom")


def test_rigid_groups_are_kept_with_a_warning(two_panels):
    with pytest.warns(SfxlabWarning, match="rigid groups"):
        geometry = parse_geometry(two_panels + "rigid_group_q0 = left,right\nrigid_group_collection_all = q0\n")
    assert geometry.rigid_groups == (Group("q0", ("left", "right")), Group("collection_all", ("q0",)))
    assert geometry.groups == (Group("all", ("left", "right")),)


def test_groups_may_stand_anywhere(two_panels):
    geometry = parse_geometry("group_all = a, b\ngroup_a = left\n" + two_panels + "group_b = right\n")
    assert geometry.groups == (Group("all", ("a", "b")), Group("a", ("left",)), Group("b", ("right",)))


def test_a_strange_key_is_kept_with_a_warning(two_panels):
    with pytest.warns(SfxlabWarning, match="line 29: 'colour' means nothing"):
        geometry = parse_geometry(two_panels + "left/colour = blue\n")
    assert geometry.other == (("left/colour", "blue"),)


@pytest.mark.parametrize("line", ["rail_direction = z", "badrow_direction = x"])
def test_obsolete_keys_are_kept_with_a_warning(two_panels, line):
    with pytest.warns(SfxlabWarning, match=line.split()[0]):
        parse_geometry(two_panels + line + "\n")


@pytest.mark.parametrize("key", ["min_fs", "max_ss", "corner_x", "fs", "ss"])
def test_what_a_panel_lacks_is_named_with_the_line_to_add(key):
    with pytest.raises(GeometryError) as caught:
        parse_geometry(without(ONE_PANEL, f"p0/{key} "), "a.geom")
    assert "a.geom, panel p0: panel 'p0' is incomplete" in str(caught.value)
    assert f"p0/{key} = " in str(caught.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("res", "p0/res = 13333.3"),
        ("clen", "add a line such as 'clen = 0.06 m'"),
        ("photon_energy", "add a line such as 'photon_energy = 9500 eV'"),
    ],
)
def test_what_the_whole_detector_lacks_is_named_with_the_line_to_add(key, message):
    with pytest.raises(GeometryError) as caught:
        parse_geometry(without(ONE_PANEL, key), "a.geom")
    assert str(caught.value).startswith("a.geom")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("max_ad = 5", "did you mean 'max_adu'?"),
        ("photon_enregy = 5", "did you mean 'photon_energy'?"),
        ("mask8_data = /m", "did you mean 'mask7_data'?"),
        ("p0/cornerx = 5", "did you mean 'corner_x'?"),
        ("what is this", "a line without '='"),
        ("p0/photon_energy = 5", "belongs to the whole detector"),
        ("clen = 0.2", "'clen' is given twice"),
        ("wavelength = 1 A", "'wavelength' beside 'photon_energy' of line 1"),
        ("p0/res = -1", "more than 0"),
        ("p0/min_fs = 0.5", "a whole number"),
        ("p0/min_fs = abc", "a whole number"),
        ("p0/max_fs = -1", "panel 'p0' has no pixels"),
        ("p0/fs = 1x + 2q", "a vector such as"),
        ("p0/fs = 0x", "not zero"),
        ("p0/fs = 1x 2x", "a vector such as"),
        ("p0/ss = +0.99998015x +0.0063y", "parallel"),
        ("p0/no_index = perhaps", "true, false or a number"),
        ("mask0_badbits = 0xzz\np0/mask0_data = /m\np0/mask0_badbits = 0xzz", "flag bits"),
        ("p0/mask0_file = m.h5", "mask0 has a file but no path in it"),
        ("p0/dim2 = %%", "ss, fs, % or an index"),
        ("detector_shift_x = 5 km", "a number or an HDF5 path, and m or mm"),
        ("p0/max_adu = nan", "a number"),
        ("badx/min_q = 5", "a bad region has no key 'min_q'"),
        ("badx/min_x = 5\nbadx/min_fs = 5", "mixes min_fs and min_x"),
        ("badx/min_fs = 1\nbadx/panel = p9", "bad region 'badx' is incomplete"),
        ("group_a = p0,p7", "group 'a' cannot have the member 'p7'"),
        ("group/min_fs = 1", "'group' cannot name a panel"),
    ],
)
def test_a_wrong_line_is_named_with_file_and_line(line, message):
    with pytest.raises(GeometryError) as caught:
        parse_geometry(ONE_PANEL + line + "\n", "a.geom")
    assert str(caught.value).startswith("a.geom, ")
    assert message in str(caught.value)
    if "\n" not in line and "is incomplete" not in message:
        assert "line 13" in str(caught.value)


def test_a_bad_region_on_an_unknown_panel_is_refused(two_panels):
    keys = "".join(f"bad1/{key} = 1\n" for key in ("min_fs", "max_fs", "min_ss", "max_ss"))
    with pytest.raises(GeometryError, match=r"bad region 'bad1' is on an unknown panel[\s\S]*did you mean 'right'"):
        parse_geometry(two_panels + keys + "bad1/panel = rigth\n")


@pytest.mark.parametrize(
    "axes", ["dim0 = fs\ndim1 = ss", "dim0 = %\ndim1 = ss", "dim0 = %\ndim1 = ss\ndim3 = fs", "dim2 = ss"]
)
def test_axes_that_make_no_image_are_refused(axes):
    with pytest.raises(GeometryError, match="the axes of panel 'p0' are wrong"):
        parse_geometry(with_line(ONE_PANEL, axes))


def test_overlapping_panels_are_refused_unless_their_data_lie_apart(two_panels):
    overlapping = two_panels.replace("right/min_fs = 3", "right/min_fs = 2")
    with pytest.raises(GeometryError, match=r"panels 'left' and 'right' overlap[\s\S]*right fs 2-5, ss 0-7"):
        parse_geometry(overlapping)
    geometry = parse_geometry(overlapping + "right/data = /entry_1/data_2/data\n")
    assert geometry.shape == (16, 6)


def test_the_slab_stacks_data_arrays_along_ss_in_order_of_first_appearance():
    panels = []
    for n, module in enumerate((3, 0, 1)):
        panels.append(
            f"p{n}/dim0 = %\np{n}/dim1 = {module}\np{n}/dim2 = ss\np{n}/dim3 = fs\n"
            f"p{n}/min_fs = 1\np{n}/max_fs = {4 + n}\n"
            f"p{n}/min_ss = 2\np{n}/max_ss = 9\np{n}/corner_x = 0\np{n}/corner_y = 0\np{n}/fs = x\np{n}/ss = y\n"
        )
    geometry = parse_geometry("photon_energy = 1 keV\nclen = 1\nres = 1\n" + "".join(panels))
    assert geometry.shape == (30, 7)
    assert [(p.panel.row, p.panel.column, p.panel.file_ss, p.panel.file_fs) for p in geometry.panels] == [
        (2, 1, 2, 1),
        (12, 1, 2, 1),
        (22, 1, 2, 1),
    ]
    assert [(b.row, b.rows, b.columns, b.dims[1]) for b in geometry.blocks] == [
        (0, 10, 5, 3),
        (10, 10, 6, 0),
        (20, 10, 7, 1),
    ]


def test_gain_is_that_given_last():
    text = with_line(ONE_PANEL, "adu_per_photon = 4") + "p0/adu_per_eV = 0.001\n"
    assert parse_geometry(text).panels[0].panel.gain(9000) == pytest.approx(9)
    assert parse_geometry(with_line(ONE_PANEL, "adu_per_photon = 4")).panels[0].panel.gain(9000) == 4


def test_a_detector_contains_camera_length_offset_and_shift():
    detector = parse_geometry(ONE_PANEL).detector(0.15, (1e-3, -2e-3))
    assert detector.panels[0].corner == pytest.approx((-500.25 / 13333.333 + 1e-3, 20.5 / 13333.333 - 2e-3, 0.1505))
    assert detector.camera_length == pytest.approx(0.1505)


def test_a_geometry_takes_the_positions_of_a_moved_detector(two_panels):
    geometry = parse_geometry(two_panels)
    moved = geometry.detector(0.1).moved(1e-4, 2e-4, 3e-4)
    again = geometry.with_detector(moved, 0.1).detector(0.1)
    for ours, theirs in zip(again.panels, moved.panels, strict=True):
        assert ours.corner == pytest.approx(theirs.corner, abs=1e-12)


def test_a_missing_or_binary_file_is_named(tmp_path: Path):
    with pytest.raises(GeometryError, match=r"none\.geom: there is no such geometry file"):
        read_geometry(tmp_path / "none.geom")
    (tmp_path / "image.h5").write_bytes(b"\x89HDF\r\n\x1a\n\0\0")
    with pytest.raises(GeometryError, match=r"image\.h5: this is not a geometry file"):
        read_geometry(tmp_path / "image.h5")
    with pytest.raises(GeometryError, match="cannot be read"):
        read_geometry(tmp_path)


def test_a_geometry_without_panels_is_refused():
    with pytest.raises(GeometryError, match="no panels"):
        parse_geometry("photon_energy = 9 keV\nclen = 1\n")


@pytest.mark.parametrize(
    ("name", "panels", "shape"),
    [
        ("lyso/lyso.geom", 8, (1024, 1024)),
        ("psii/psii.geom", 8, (4096, 1024)),
        ("real/thermolysin_cspad/thermolysin_cspad.geom", 64, (1480, 1552)),
    ],
)
def test_example_geometries_are_read(shared_data: Path, name, panels, shape):
    geometry = read_geometry(shared_data / name)
    assert (len(geometry.panels), geometry.shape) == (panels, shape)
    assert geometry.text == (shared_data / name).read_text()


def test_geometries_in_measured_streams_are_read(shared_data: Path):
    def in_stream(name: str) -> Geometry:
        text = (shared_data / "real" / name).read_text()
        return parse_geometry(text.split("----- Begin geometry file -----\n")[1].split("----- End geometry")[0])

    assert in_stream("stream_lysozyme_pal/lysozyme_pal.stream").panels[0].panel.ss[2] == pytest.approx(0.001402 / 6400)
    with pytest.warns(SfxlabWarning, match="rigid groups"):
        geometry = in_stream("stream_5ht2b/5ht2b.stream")
    assert len(geometry.panels) == 64
    assert geometry.camera_length.convert(-420.0) + geometry.panels[0].panel.corner[2] == pytest.approx(0.162)
