"""Building images takes minutes and a network, so these tests run only where they are asked for: `make test-images`."""

from __future__ import annotations

import pytest

_REASON = "building images takes minutes: make test-images"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "images: builds container images and runs them")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "images" not in config.getoption("markexpr"):
        for item in items:
            if item.get_closest_marker("images"):
                item.add_marker(pytest.mark.skip(reason=_REASON))
