from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfxlab.errors import OutputExistsError, SfxlabWarning
from sfxlab.geometry import Geometry, Panel, PanelSource, Quantity, format_geometry, parse_geometry, read_geometry
from sfxlab.geometry import write_geometry as write
from sfxlab.geometry.geometry import BadArea, BadPixels, Flag, Group, MaskSource, stack_blocks

numbers = st.floats(-1e6, 1e6).map(lambda x: round(x, 6))
positive = st.floats(1e-3, 1e6)
paths = st.sampled_from(["/data/data", "/entry/%/data", "/a/%/b/%"])
bit_sets = st.integers(0, 2**64 - 1)
mask_files = st.one_of(st.none(), st.just("mask file.h5"))
flags = st.builds(Flag, st.sampled_from(["lessthan", "morethan", "equal"]), numbers)


@st.composite
def panel_sources(draw, name: str, first_row: int) -> PanelSource:
    angle, tilt = draw(st.floats(-np.pi, np.pi)), draw(st.floats(-0.1, 0.1))
    resolution = draw(st.floats(1e3, 1e5))
    size = draw(st.floats(0.5, 2)) / resolution
    corner = [draw(st.floats(-3000, 3000)) / resolution for _ in "xy"]
    per_photon = draw(st.one_of(st.none(), positive))
    saturation_map = draw(st.one_of(st.none(), paths))
    return PanelSource(
        panel=Panel(
            name, first_row, 0, draw(st.integers(1, 64)), draw(st.integers(1, 64)),
            (corner[0], corner[1], draw(st.floats(-0.5, 0.5))),
            (np.cos(angle) * size, np.sin(angle) * size, tilt * size),
            (-np.sin(angle) * size, np.cos(angle) * size, -tilt * size),
            file_fs=draw(st.integers(0, 100)), file_ss=first_row,
            adu_per_photon=per_photon,
            adu_per_ev=None if per_photon is not None else draw(st.one_of(st.none(), positive)),
            max_adu=draw(st.one_of(st.just(np.inf), positive)),
        ),
        resolution=resolution,
        data=draw(paths),
        dims=draw(st.sampled_from([("ss", "fs"), ("%", "ss", "fs"), ("%", 3, "ss", "%", "fs")])),
        masks=tuple(
            MaskSource(n, draw(paths), draw(mask_files), draw(bit_sets), draw(bit_sets))
            for n in sorted(draw(st.sets(st.integers(0, 7), max_size=3)))
        ),
        flags=tuple(
            sorted(draw(st.sets(flags, max_size=3)))
        ),
        no_index=draw(st.booleans()),
        mask_edge_pixels=draw(st.integers(0, 5)),
        saturation_map=saturation_map,
        saturation_map_file=None if saturation_map is None else draw(mask_files),
    )  # fmt: skip


@st.composite
def geometries(draw) -> Geometry:
    names = [f"p{i}" for i in range(draw(st.integers(1, 4)))]
    panels = stack_blocks([draw(panel_sources(name, 64 * i)) for i, name in enumerate(names)])
    lengths = st.builds(Quantity, st.just("clen"), st.one_of(numbers, st.just("/a/clen")), st.sampled_from(["m", "mm"]))
    shifts = st.one_of(st.none(), st.builds(Quantity, st.just("detector_shift_x"), numbers, st.just("mm")))
    energies = st.one_of(
        st.builds(
            Quantity, st.just("photon_energy"), st.one_of(positive, st.just("/LCLS/e")), st.sampled_from(["eV", "keV"])
        ),
        st.builds(Quantity, st.just("wavelength"), positive, st.sampled_from(["A", "m"])),
        st.builds(Quantity, st.just("electron_voltage"), positive, st.sampled_from(["V", "kV"])),
    )
    regions = st.one_of(
        st.builds(BadPixels, st.just("bad0"), st.sampled_from(names), *[st.integers(-5, 99)] * 4),
        st.builds(BadArea, st.just("bad0"), *[numbers] * 4),
    )
    group = Group("all", tuple(names))
    return Geometry(
        panels=panels,
        photon_energy=draw(energies),
        camera_length=draw(lengths),
        detector_shift_x=draw(shifts),
        bandwidth=draw(st.one_of(st.none(), st.floats(0, 0.1))),
        bad_regions=tuple(draw(st.lists(regions, max_size=1))),
        groups=draw(st.sampled_from([(group,), (Group("a", ("p0",)), group)])),
        peak_list=draw(st.one_of(st.none(), st.just("/entry_1/result_1"))),
    )


@pytest.mark.filterwarnings("ignore:.*bad region")
@settings(max_examples=100, deadline=None)
@given(geometries())
def test_a_written_geometry_reads_back_as_it_was(geometry: Geometry):
    again = parse_geometry(format_geometry(geometry))
    for ours, theirs in zip(again.panels, geometry.panels, strict=True):
        corners = np.array([[0, 0, 1], [theirs.panel.columns, 0, 1], [0, theirs.panel.rows, 1]])
        vectors = (np.array([p.panel.fs, p.panel.ss, p.panel.corner]) for p in (ours, theirs))
        positions = [corners @ v for v in vectors]
        assert positions[0] == pytest.approx(positions[1], abs=1e-9)
    with_our_positions = tuple(
        replace(theirs, panel=replace(theirs.panel, corner=ours.panel.corner, fs=ours.panel.fs, ss=ours.panel.ss))
        for ours, theirs in zip(again.panels, geometry.panels, strict=True)
    )
    assert again == replace(geometry, panels=with_our_positions)


def test_what_means_nothing_is_written_back(two_panels: str):
    with pytest.warns(SfxlabWarning):
        geometry = parse_geometry(two_panels + "left/colour = blue\n")
    with pytest.warns(SfxlabWarning):
        assert parse_geometry(format_geometry(geometry)).other == (("left/colour", "blue"),)


@pytest.mark.parametrize("name", ["lyso/truth/lyso_true.geom", "real/thermolysin_cspad/thermolysin_cspad.geom"])
def test_example_geometries_survive_being_written(shared_data: Path, tmp_path: Path, name: str):
    geometry = read_geometry(shared_data / name)
    write(geometry, tmp_path / "again.geom")
    ours, theirs = (g.detector(0.1).arrays for g in (read_geometry(tmp_path / "again.geom"), geometry))
    assert np.abs(ours.corner - theirs.corner).max() < 1e-12
    assert np.abs(ours.fs - theirs.fs).max() < 1e-15


def test_a_geometry_file_is_overwritten_only_when_asked(two_panels: str, tmp_path: Path):
    path = tmp_path / "a.geom"
    path.write_text("precious")
    with pytest.raises(OutputExistsError, match=r"a\.geom"):
        write(parse_geometry(two_panels), path)
    assert path.read_text() == "precious"
    write(parse_geometry(two_panels), path, overwrite=True)
    assert len(read_geometry(path).panels) == 2
    assert [p.name for p in tmp_path.iterdir()] == ["a.geom"]
