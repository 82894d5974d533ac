"""JupyterHub for proposals: all that is decided lies in site.toml and proposals.toml beside this file."""

from pathlib import Path

from sfxlab.hub.configuration import configure

_HERE = Path(__file__).parent

configure(c, _HERE / "site.toml", _HERE / "proposals.toml")  # noqa: F821
