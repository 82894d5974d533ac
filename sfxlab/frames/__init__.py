"""Where frames come from."""

from sfxlab.frames.frame import Frame, FrameId, FrameSource
from sfxlab.frames.hdf5 import FrameSummary, Hdf5Frames
from sfxlab.frames.inputs import open_frames

__all__ = ["Frame", "FrameId", "FrameSource", "FrameSummary", "Hdf5Frames", "open_frames"]
