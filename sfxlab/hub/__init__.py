"""A JupyterHub for a facility or a group: who may do what is data (`proposals.toml`, `site.toml`), the rest follows."""
