"""The programs for power saving are no installed package, and tests here share a cloud."""

from __future__ import annotations

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parents[2] / "hub_config" / "slurm"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
