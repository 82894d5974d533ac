"""What a crystal should show on a detector, and the crystal that suits best what was seen."""

from sfxlab.diffraction.prediction import Prediction, predict
from sfxlab.diffraction.refinement import refine

__all__ = ["Prediction", "predict", "refine"]
