"""Addresses on the network, `s3://bucket/run1/a.cxi`, and how they lead to one another."""

from __future__ import annotations

import posixpath


def is_address(path: object) -> bool:
    """Whether a path is an address on the network."""
    return isinstance(path, str) and "://" in path


def beside(address: str, name: str) -> str:
    """The address of a file that the one at `address` refers to, in the same place where `name` is a path from `/`."""
    if is_address(name):
        return name
    return f"{address.rpartition('/')[0]}/{posixpath.basename(name) if name.startswith('/') else name}"
