"""Scripts and style sheets that several widgets share, joined so that a browser needs one of each."""

from __future__ import annotations

from sfxlab.widgets.bound import static


def joined(*names: str) -> str:
    """The texts of some static files, one after the other."""
    return "\n".join(static(name).read_text(encoding="utf-8") for name in names)
