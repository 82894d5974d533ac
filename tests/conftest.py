"""What tests share."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pytest

from sfxlab.geometry import Detector, Panel

_BEGIN_WITH = ("hub_config", "hub", "notebooks", "browser", "faults", "cluster", "images")
"""Folders whose tests wait for servers, jobs and pages: the others keep the processors busy meanwhile."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long waits come first, so that none is left alone at the end."""
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        folder = item.path.relative_to(tests.parent).parts[:2][-1 if item.path.is_relative_to(tests) else 0]
        return _BEGIN_WITH.index(folder) if folder in _BEGIN_WITH else len(_BEGIN_WITH)

    items.sort(key=place)


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


@pytest.fixture
def make_hdf5(tmp_path: Path) -> Callable[..., Path]:
    """Writes arrays to an HDF5 file: `make_hdf5("a.h5", {"/data/data": array}, chunks=…, compression=…)`."""

    def write(name: str, arrays: Mapping[str, Any], **creation: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            for where, values in arrays.items():
                array = np.asarray(values)
                file.create_dataset(where, data=array, **(creation if array.ndim > 2 else {}))
        return path

    return write


@pytest.fixture
def make_cxi(make_hdf5: Callable[..., Path]) -> Callable[..., Path]:
    """Writes a CXI file of frames (n, 8, 6) for the geometry `two_panels`, with energies and a mask."""

    def write(
        name: str = "frames.cxi", frames: Any = None, energies: Any = None, mask: Any = None, **creation: Any
    ) -> Path:
        data = np.arange(4 * 8 * 6, dtype=np.uint16).reshape(4, 8, 6) if frames is None else np.asarray(frames)
        arrays = {
            "/entry_1/data_1/data": data,
            "/entry_1/data_1/mask": np.zeros(data.shape[-2:], dtype=np.uint16) if mask is None else mask,
            "/LCLS/photon_energy_eV": 9000.0 + np.arange(len(data)) if energies is None else energies,
        }
        return make_hdf5(name, arrays, **creation)

    return write


@pytest.fixture
def two_panels() -> str:
    """Text of a geometry file of two panels, 8 rows of 3 columns each, for the files of `make_cxi`."""
    return """; a comment
photon_energy = /LCLS/photon_energy_eV eV
clen = 0.1 m
res = 10000
data = /entry_1/data_1/data
dim0 = %
dim1 = ss
dim2 = fs
mask0_data = /entry_1/data_1/mask
mask0_badbits = 0xffff

left/min_fs = 0
left/max_fs = 2
left/min_ss = 0
left/max_ss = 7
left/corner_x = -3.5
left/corner_y = 4
left/fs = +1.0x +0.0y
left/ss = +0.0x -1.0y

right/min_fs = 3
right/max_fs = 5
right/min_ss = 0
right/max_ss = 7
right/corner_x = 0.5
right/corner_y = 4
right/fs = x
right/ss = -y
"""


@pytest.fixture(scope="session")
def mockdata() -> Callable[[str], ModuleType]:
    """Writers of small files as facilities write them: `mockdata("pilatus").write_cbf(path, pixels)`."""

    return lambda name: _module(f"mockdata_{name}", Path(__file__).with_name("mockdata") / f"{name}.py")


@pytest.fixture(scope="session")
def slurm_site() -> Any:
    """A real SLURM on this machine: `with slurm_site(local_nodes=2) as site`; see slurm_site.py."""
    return _module("slurm_site", Path(__file__).with_name("slurm_site.py")).SlurmSite


def _module(name: str, path: Path) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
