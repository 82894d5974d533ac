"""What `describe` and `sfxlab show` guess to be wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sfxlab.frames import open_frames
from sfxlab.geometry import parse_geometry

Write = Callable[..., Path]


@pytest.fixture
def doubts(make_cxi: Write, two_panels: str) -> Callable[..., tuple[str, ...]]:
    """The doubts about frames with some arrays and words of the geometry replaced."""

    def find(changes: dict[str, str] | None = None, **arrays: object) -> tuple[str, ...]:
        text = two_panels
        for old, new in (changes or {}).items():
            assert old in text
            text = text.replace(old, new)
        return open_frames(make_cxi(**arrays), parse_geometry(text)).describe().doubts

    return find


def test_there_is_no_doubt_about_sound_frames(doubts: Callable[..., tuple[str, ...]]) -> None:
    assert doubts() == ()


def test_frames_without_signal_are_suspicious(doubts: Callable[..., tuple[str, ...]]) -> None:
    (doubt,) = doubts(frames=np.zeros((4, 8, 6), dtype=np.uint16))
    assert doubt.startswith("all good pixels of the first 3 frames are 0:")
    one_has_signal = np.zeros((4, 8, 6), dtype=np.uint16)
    one_has_signal[1, 3, 3] = 7
    assert doubts(frames=one_has_signal) == ()


def test_a_mask_that_takes_nearly_everything_is_suspicious(doubts: Callable[..., tuple[str, ...]]) -> None:
    (doubt,) = doubts(mask=np.ones((8, 6), dtype=np.uint16))
    assert "100% of the panels are masked" in doubt


@pytest.mark.parametrize(
    ("energies", "expected"),
    [
        ([9000, np.nan, 9001, np.nan], "2 of 4 frames have no photon energy"),
        ([9.0, 9.0, 9.0, 9.0], "9 to 9 eV is not that of diffraction"),
        ([9e6, 9e6, 9e6, 9e6], "is the unit of photon_energy"),
        ([9000, 9100, 9900, 9000], "changes between frames, from 9000 to 9900 eV"),
    ],
)
def test_photon_energies_that_cannot_be_are_suspicious(
    doubts: Callable[..., tuple[str, ...]], energies: list[float], expected: str
) -> None:
    found = doubts(energies=np.array(energies))
    assert expected in found[-1]


def test_energies_of_electrons_are_not_taken_for_those_of_photons(doubts: Callable[..., tuple[str, ...]]) -> None:
    changes = {"photon_energy = /LCLS/photon_energy_eV eV": "electron_voltage = 300 kV"}
    assert doubts(changes) == ()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"clen = 0.1 m": "clen = 100 m"}, "camera length of 100000 mm"),
        ({"clen = 0.1 m": "clen = 0.1 mm"}, "camera length of 0.1 mm"),
        ({"clen = 0.1 m": "clen = -0.1 m"}, "camera length of -100 mm"),
        ({"res = 10000": "res = 10"}, "pixels of 100000 to 100000 µm"),
        ({"left/fs = +1.0x +0.0y": "left/fs = +100x +0.0y"}, "pixels of 100 to 10000 µm"),
        ({"corner_x = -3.5": "corner_x = 35000", "corner_x = 0.5": "corner_x = 35004"}, "the beam passes"),
    ],
)
def test_a_detector_that_cannot_be_is_suspicious(
    doubts: Callable[..., tuple[str, ...]], changes: dict[str, str], expected: str
) -> None:
    assert any(expected in doubt for doubt in doubts(changes))


def test_an_array_much_larger_than_the_panels_is_suspicious(doubts: Callable[..., tuple[str, ...]]) -> None:
    frames = np.arange(4 * 16 * 12).reshape(4, 16, 12)
    (doubt,) = doubts(frames=frames)
    assert "take only 25% of the 16 × 12 pixels" in doubt
    assert "/entry_1/data_1/data" in doubt


def test_a_frame_that_cannot_be_read_is_named(
    doubts: Callable[..., tuple[str, ...]],
) -> None:
    found = doubts(energies=np.array([9000.0, 0.0, 9000.0, 9000.0]))
    assert found[0] == "frame 1 cannot be read: the photon energy of the frame is no energy"
