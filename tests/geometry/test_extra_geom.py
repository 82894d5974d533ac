import sys

import numpy as np
import pytest

from sfxlab.errors import GeometryError
from sfxlab.geometry import format_geometry, parse_geometry
from sfxlab.geometry.extra_geom import from_extra_geom

extra_geom = pytest.importorskip("extra_geom")


def agipd():
    return extra_geom.AGIPD_1MGeometry.from_quad_positions([(-525, 625), (-550, -10), (520, -160), (542.5, 475)])


def lpd():
    return extra_geom.LPD_1MGeometry.from_quad_positions([(11.4, 299), (-11.5, 8), (254.5, -16), (278.5, 275)])


def jungfrau():
    return extra_geom.JUNGFRAUGeometry.example(n_modules=8)


@pytest.mark.parametrize(
    ("make", "n_panels", "shape", "n_groups"),
    [(agipd, 128, (8192, 128), 21), (lpd, 256, (4096, 256), 21), (jungfrau, 64, (4096, 1024), 9)],
)
def test_pixels_are_where_extra_geom_has_them(make, n_panels, shape, n_groups):
    geom = make()
    geometry = from_extra_geom(geom, 0.2, 9300)
    assert len(geometry.panels) == n_panels
    assert geometry.shape == shape
    assert len(geometry.groups) == n_groups
    assert geometry.groups[-1].name == "all"
    detector = geometry.detector(0.2)
    expected = geom.get_pixel_positions(centre=True).reshape(*shape, 3)
    x, y = detector.xy
    np.testing.assert_allclose(x, expected[..., 0], atol=2e-8)
    np.testing.assert_allclose(y, expected[..., 1], atol=2e-8)
    np.testing.assert_allclose([panel.corner[2] for panel in detector.panels], 0.2, atol=1e-9)


def test_the_text_says_the_same_and_keeps_the_mask():
    geometry = from_extra_geom(agipd(), 0.2, 9300)
    assert parse_geometry(geometry.text) == geometry
    assert format_geometry(geometry) == geometry.text
    assert {(m.data, m.bad_bits) for source in geometry.panels for m in source.masks} == {
        ("/entry_1/instrument_1/detector_1/mask", 0xFFFFFFFF)
    }
    assert geometry.panels[-1].dims == ("%", 15, "ss", "fs")


def test_lengths_and_energies_can_be_paths():
    path = "/CONTROL/SPB_IRU_AGIPD1M/MOTOR/Z_STEPPER/actualPosition/value"
    geometry = from_extra_geom(agipd(), f"{path} mm")
    assert (geometry.camera_length.value, geometry.camera_length.unit) == (path, "mm")
    assert geometry.photon_energy.value == "/XGM/photon_energy"


def test_anything_else_is_refused():
    with pytest.raises(GeometryError, match=r"no EXtra-geom geometry\n  found:    str"):
        from_extra_geom("agipd.geom", 0.2)


def test_without_extra_geom_it_is_said_what_to_install(monkeypatch):
    geom = agipd()
    monkeypatch.setitem(sys.modules, "extra_geom.base", None)
    with pytest.raises(GeometryError, match=r"need EXtra-geom[\s\S]*sfxlab\[euxfel\]"):
        from_extra_geom(geom, 0.2)
