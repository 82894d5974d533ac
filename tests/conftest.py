"""What tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sfxlab.geometry import Detector, Panel


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of example data with truth; tests that need it are skipped where it is absent."""
    root = Path(__file__).parents[1]
    folder = Path(os.environ.get("SFXLAB_SHARED_DATA", root.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no example data at {folder}; set SFXLAB_SHARED_DATA")
    return folder


@pytest.fixture(scope="session")
def detector() -> Detector:
    """Two panels side by side with a gap, the second one turned by a degree; 100 µm pixels at 80 mm."""
    step, turned = (1e-4, 0.0, 0.0), (0.99984770e-4, 0.01745241e-4, 0.0)
    down, turned_down = (0.0, -1e-4, 0.0), (0.01745241e-4, -0.99984770e-4, 0.0)
    panels = (
        Panel("left", 0, 0, 512, 256, (-0.0262, 0.0256, 0.08), step, down, 0, 0, 1.0),
        Panel("right", 0, 256, 512, 256, (0.0004, 0.0255, 0.0801), turned, turned_down, 256, 0, 1.0),
    )
    return Detector(panels, (512, 512), 0.08)
