"""Where the panels of a detector really are, from all crystals of a run."""

from sfxlab.detector_refinement.bodies import Level
from sfxlab.detector_refinement.refine import DetectorRefinement, PanelMove, refine_detector
from sfxlab.detector_refinement.run import RefinedGeometry, refine_geometry
from sfxlab.detector_refinement.stills import Still

__all__ = ["DetectorRefinement", "Level", "PanelMove", "RefinedGeometry", "Still", "refine_detector", "refine_geometry"]
