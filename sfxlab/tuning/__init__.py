"""Parameters of the peak search, tried on a sample of frames and judged by the lattices found."""

from sfxlab.tuning.choice import Gain, Proposal, propose, ranking
from sfxlab.tuning.grid import default_grid
from sfxlab.tuning.heat_map import heat_map
from sfxlab.tuning.sweep import Sweep, sweep

__all__ = ["Gain", "Proposal", "Sweep", "default_grid", "heat_map", "propose", "ranking", "sweep"]
