"""Detectors: where each pixel is and which to trust."""

from sfxlab.geometry.detector import HC_EV_ANGSTROM, Detector, Panel, PanelArrays

__all__ = ["HC_EV_ANGSTROM", "Detector", "Panel", "PanelArrays"]
