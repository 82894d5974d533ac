"""Scripts and style sheets that several widgets share, joined so that a browser needs one of each."""

from __future__ import annotations

from sfxlab.widgets.bound import static

_EXPORT = "export default"


def joined(*names: str) -> str:
    """The texts of some static files, one after the other; around scripts is what tells the kernel who looks."""
    text = "\n".join(static(name).read_text(encoding="utf-8") for name in names)
    if names[-1].endswith(".js"):
        text = text.replace(_EXPORT, "const exportedWidget =") + static("page.js").read_text(encoding="utf-8")
    return text
