"""Where frames come from."""

from sfxlab.frames.frame import Frame, FrameId, FrameSource
from sfxlab.frames.hdf5 import Hdf5Frames
from sfxlab.frames.inputs import open_frames
from sfxlab.frames.sequence import FrameSequence, FrameSummary

__all__ = ["Frame", "FrameId", "FrameSequence", "FrameSource", "FrameSummary", "Hdf5Frames", "open_frames"]
