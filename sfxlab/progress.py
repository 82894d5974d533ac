"""How far a run is, on a terminal, in a notebook or to a function."""

from sfxlab.store.progress import Progress, Report, reported, terminal_bar

__all__ = ["Progress", "Report", "reported", "terminal_bar"]
