"""JupyterLab and Chromium for tests in a browser."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture(scope="session")
def lab_module() -> ModuleType:
    """`lab.py` beside this file; tests that need it are skipped where the browser or JupyterLab is absent."""
    pytest.importorskip("playwright", reason="playwright is not installed; it is part of sfxlab[test]")
    pytest.importorskip("jupyterlab", reason="JupyterLab is not installed; it is part of sfxlab[lab]")
    if "browser_lab" not in sys.modules:
        spec = importlib.util.spec_from_file_location("browser_lab", Path(__file__).with_name("lab.py"))
        assert spec is not None
        assert spec.loader is not None
        sys.modules["browser_lab"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["browser_lab"])
    module = sys.modules["browser_lab"]
    if module.chromium() is None:
        pytest.skip("no Chromium in PATH; make system-deps installs it on Debian")
    return module


@pytest.fixture(scope="session")
def lab_server(lab_module: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One JupyterLab for all modules."""
    server = lab_module.LabServer(tmp_path_factory.mktemp("lab"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def lab(request: pytest.FixtureRequest, lab_module: ModuleType, lab_server: Any) -> Iterator[Any]:
    """A browser in front of JupyterLab: `lab.open([cell, …])` is a playwright `Page`; see `lab.py`.

    The browser is one for each module, because no other event loop can run in the same thread while it is open.
    """
    with lab_module.browser() as browser:
        lab = lab_module.Lab(lab_server, browser, request.module.__name__.rpartition(".")[2])
        yield lab
        lab.close()


@pytest.fixture(scope="session")
def small_run(mockdata: Callable[[str], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A `Run` of twelve frames: hits with one or two lattices, and blanks."""
    return mockdata("small_run").make(tmp_path_factory.mktemp("small"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Keep pictures of what was on the pages when a test failed."""
    report: Any = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.when == "call" and report.failed and lab is not None:
        lab.keep_all(f"failed-{item.name}")
    return report
