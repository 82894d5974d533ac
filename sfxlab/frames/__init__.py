"""Where frames come from."""

from sfxlab.frames.frame import Frame, FrameId, FrameSource

__all__ = ["Frame", "FrameId", "FrameSource"]
