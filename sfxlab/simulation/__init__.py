"""Serial crystallography with known truth: for the demo, the tests, and planning an experiment."""

from sfxlab.simulation.experiment import LYSOZYME, Simulation, simulate
from sfxlab.simulation.instrument import DETECTORS
from sfxlab.simulation.scene import USUAL_MIX, Kind

__all__ = ["DETECTORS", "LYSOZYME", "USUAL_MIX", "Kind", "Simulation", "simulate"]
