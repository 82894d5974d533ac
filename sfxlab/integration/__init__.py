"""Pixels under the predictions into intensities."""

from sfxlab.integration.integrate import IMPLAUSIBLE, integrate
from sfxlab.integration.learning import Examples, learn_profiles
from sfxlab.integration.reflections import Reflections

__all__ = ["IMPLAUSIBLE", "Examples", "Reflections", "integrate", "learn_profiles"]
