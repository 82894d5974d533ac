"""Outside programs and plug-ins as indexers: their answers, their limits, and what their failures cost."""

from __future__ import annotations

import gzip
import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from sfxlab.crystal import UnitCell, read_cell
from sfxlab.errors import FrameError, RecipeError
from sfxlab.frames import open_frames
from sfxlab.geometry import HC_EV_ANGSTROM, Detector, Panel
from sfxlab.indexing import Spots, judged
from sfxlab.indexing.methods import check_indexer, index_frames, indexer_version
from sfxlab.indexing.outside.crystfel import read_answers, write_inputs
from sfxlab.indexing.outside.plane import Plane, on_plane
from sfxlab.indexing.outside.sandbox import run, sandbox
from sfxlab.interop.peak_lists import read_peaks
from sfxlab.peaks import Peaks
from sfxlab.processing import process
from sfxlab.recipe import IndexingRecipe, Recipe

CELL = UnitCell(79.3, 79.3, 37.8, lattice_type="tetragonal", unique_axis="c")
ENERGIES = (9500.0, 9510.0, 9520.0)

ANSWERING = """
# Writes a stream as indexamajig's are, with the lattices that known.json has for the photon energies of the frames.
import h5py, json, os, sys, time
if "--version" in sys.argv:
    print("CrystFEL: 0.0.0 of this test")
    sys.exit()
known = json.load(open(sys.argv[-1]))
energies = h5py.File("peaks.cxi")["photon_energy"][()]
out = open(sys.argv[sys.argv.index("-o") + 1], "w")
print("CrystFEL stream format 2.3", file=out)
for line in open(sys.argv[sys.argv.index("-i") + 1]):
    name, event = line.split()
    energy = str(round(energies[int(event[2:])]))
    print(f"----- Begin chunk -----\\nImage filename: {name}\\nEvent: {event}\\nhit = 1", file=out, flush=True)
    if energy == str(known.get("bad")):
        TROUBLE
    for basis in known.get(energy, []):
        print("--- Begin crystal", file=out)
        for axis, row in zip("abc", basis):
            print(f"{axis}star = " + " ".join(f"{x:+9.7f}" for x in row) + " nm^-1", file=out)
        print("lattice_type = tetragonal\\ncentering = P\\nunique_axis = c\\n--- End crystal", file=out)
    print("----- End chunk -----", file=out, flush=True)
"""


def still(number: int, cell: UnitCell = CELL) -> tuple[Spots, np.ndarray]:
    """Spots of a made-up still on a tilted panel, and the true reciprocal basis (columns), 1/Å."""
    step, down = np.array([0.9998, 0.0, 0.02]) * 1e-4, np.array([0.0, -1.0, 0.0]) * 1e-4
    corner = (0.1 - 1e-3 * number, 0.1, 0.1)
    panel = Panel("p", 0, 0, 2000, 2000, (-corner[0], *corner[1:]), tuple(step), tuple(down), 0, 0, 1.0)
    detector, energy = Detector((panel,), (2000, 2000), 0.1), ENERGIES[number]
    k, rng = energy / HC_EV_ANGSTROM, np.random.default_rng(number)
    basis = Rotation.random(rng=rng).as_matrix() @ cell.reciprocal_basis
    hkl = np.stack(np.meshgrid(*(np.arange(-28, 29),) * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    q = hkl[cell.allows(hkl) & hkl.any(axis=1)] @ basis.T
    ray = (q + [0, 0, k])[np.linalg.norm(q, axis=1) < 0.35]
    length = np.linalg.norm(ray, axis=1)
    ray = (ray / length[:, None])[np.abs(length - k) < 6e-4]
    place = np.linalg.solve(np.stack([np.array(panel.corner), step, down], axis=1), ray.T)
    fs, ss = (place[1:] / place[0] + rng.normal(0, 0.1, (2, len(ray)))).astype(np.float32)
    which, ones = np.zeros(len(fs), dtype=np.int16), np.ones(len(fs), dtype=np.float32)
    q = detector.q(which, fs, ss, energy)
    resolution = np.linalg.norm(q, axis=1).astype(np.float32)
    peaks = Peaks(which, fs, ss, 200 * ones, 15 * ones, 12 * ones, resolution, 60 * ones, which + np.int16(5))
    return Spots(q, peaks, detector, energy), basis


def misorientation(found: np.ndarray, true: np.ndarray, cell: UnitCell = CELL) -> float:
    """Degrees between two bases that may differ by an integer change of the primitive one."""
    primitive = np.linalg.inv(cell.primitive_transform)
    a, b = found @ primitive, true @ primitive
    change = np.rint(np.linalg.inv(b) @ a)
    if round(np.linalg.det(change)) != 1:
        return 180.0
    u, _, vt = np.linalg.svd(a @ np.linalg.inv(b @ change))
    return float(np.degrees(np.arccos(np.clip((np.trace(u @ vt) - 1) / 2, -1, 1))))


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., Path]:
    """`program(text)`: a file that Python runs and that can be called by its name."""

    def write(text: str, name: str = "indexamajig") -> Path:
        path = tmp_path / name
        path.write_text(f"#!{sys.executable}\n{text}")
        path.chmod(0o755)
        return path

    return write


@pytest.fixture
def answering(tmp_path: Path, program: Callable[..., Path]) -> Callable[..., IndexingRecipe]:
    """`answering(trouble)`: a recipe for a program that has the right lattices, and trouble with the second frame."""

    def recipe(trouble: str = "pass", **limits: float) -> IndexingRecipe:
        known: dict[str, object] = {str(round(e)): [(10 * still(i)[1].T).tolist()] for i, e in enumerate(ENERGIES)}
        (tmp_path / "known.json").write_text(json.dumps(known | {"bad": 9510}))
        path = program(ANSWERING.replace("TROUBLE", trouble))
        return IndexingRecipe(
            method="crystfel:replay",
            program=str(path),
            program_options=shlex.quote(str(tmp_path / "known.json")),
            **limits,
        )

    return recipe


def test_what_indexamajig_reads_are_the_same_peaks_in_its_own_formats(tmp_path: Path) -> None:
    frames = [still(i)[0] for i in range(3)]
    plane = Plane.of(frames[0])
    command = write_inputs(
        tmp_path, [on_plane(s, plane) for s in frames], plane, CELL, IndexingRecipe(method="crystfel:x")
    )
    assert {"--indexing=x", "--peaks=cxi", "--no-image-data", "--multi", "-p"} <= set(command)
    for spots, frame in zip(frames, open_frames(tmp_path / "peaks.cxi", tmp_path / "flat.geom"), strict=True):
        peaks = read_peaks(frame)
        q = frame.detector.q(peaks.panel, peaks.fs, peaks.ss, frame.photon_energy)
        wanted = spots.q[np.argsort(np.linalg.norm(spots.q, axis=1))]
        order = np.argsort(np.linalg.norm(q, axis=1))
        np.testing.assert_allclose(q[order], wanted, atol=2e-6)


def test_lattices_of_a_program_come_back_judged_and_with_their_peaks(answering: Callable[..., IndexingRecipe]) -> None:
    frames, bases = zip(*(still(i) for i in range(3)), strict=True)
    recipe = answering()
    check_indexer(CELL, recipe)
    assert indexer_version(recipe) == {"CrystFEL": "CrystFEL: 0.0.0 of this test"}
    together = index_frames(frames, CELL, recipe)
    for spots, basis, found in zip(frames, bases, together, strict=True):
        (lattice,) = found.lattices
        assert misorientation(lattice.basis, basis) < 0.1
        assert len(lattice.peaks) > 0.8 * len(spots.q)
        assert lattice.log10_p < -20
        (alone,) = index_frames([spots], CELL, recipe)
        np.testing.assert_array_equal(alone.lattices[0].basis, lattice.basis)


@pytest.mark.parametrize(
    ("trouble", "limits", "reason"),
    [
        ("time.sleep(60)", {"program_time_limit": 1.5}, "time limit: 1.5 s, CrystFEL had not finished"),
        ("os.abort()", {}, "program failed: CrystFEL: ended by SIGABRT"),
        ("sys.exit('no more licences')", {}, "program failed: CrystFEL: exit status 1; last words: no more licences"),
        ("bytearray(2_000_000_000)", {"program_memory": 1.5}, "MemoryError"),
        ("break", {}, "program failed: CrystFEL: it gave no answer"),
    ],
)
def test_a_program_that_fails_on_a_frame_costs_that_frame_alone(
    answering: Callable[..., IndexingRecipe], trouble: str, limits: dict[str, float], reason: str
) -> None:
    first, second, third = index_frames([still(i)[0] for i in range(3)], CELL, answering(trouble, **limits))
    assert len(first.lattices) == len(third.lattices) == 1
    assert second.lattices == ()
    assert reason in second.reason


def gone(state: Path) -> bool:
    """Whether a process has ended or ends soon: a busy machine is slow to do it, and its new parent to take note."""
    for _ in range(500):
        try:
            if state.read_text().split()[2] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def test_what_a_program_leaves_behind_goes_with_it(program: Callable[..., Path]) -> None:
    text = "import os, subprocess\nprint(subprocess.Popen(['sleep', '60']).pid)\nopen('scratch', 'w').write('much')"
    with sandbox() as work:
        ended = run([str(program(text))], work, 20, 4)
        assert (work / "scratch").exists()
    assert (ended.problem, ended.late) == ("", False)
    assert not work.parent.exists()
    assert gone(Path("/proc", ended.words.strip(), "stat"))


def test_a_program_sees_little_of_the_environment(
    program: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    with sandbox() as work:
        ended = run([str(program("import os, json; print(json.dumps(dict(os.environ)))"))], work, 20, 4)
    seen = json.loads(ended.words)
    assert {"AWS_SECRET_ACCESS_KEY", "PYTHONPATH", "VIRTUAL_ENV"}.isdisjoint(seen)
    assert seen["HOME"] == seen["TMPDIR"] == str(work)
    assert seen["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize(
    ("method", "name"), [("crystfel:xgandalf", "there is no indexamajig"), ("dials", "there is no DIALS to index with")]
)
def test_a_missing_program_is_said_before_any_work(method: str, name: str) -> None:
    with pytest.raises(RecipeError, match=name) as caught:
        check_indexer(CELL, IndexingRecipe(method=method, program="/no/such/program"))
    assert "install" in str(caught.value.remedy)


def test_a_program_that_refuses_its_options_is_said_before_any_work(program: Callable[..., Path]) -> None:
    text = "import sys\nprint('CrystFEL: 9')\nif '--version' not in sys.argv: sys.exit('unknown option --magic')"
    recipe = IndexingRecipe(method="crystfel:xgandalf", program=str(program(text)), program_options="--magic")
    with pytest.raises(RecipeError, match="does not work as it is called") as caught:
        check_indexer(None, recipe)
    assert "unknown option --magic" in str(caught.value.found)


def test_an_unknown_indexer_is_refused_with_those_there_are() -> None:
    with pytest.raises(RecipeError, match="there is no indexer 'dial'") as caught:
        check_indexer(None, IndexingRecipe(method="dial"))
    assert "crystfel:METHOD" in str(caught.value.expected)
    assert caught.value.remedy == "did you mean 'dials'?"


PLUG_IN = """
import json, pathlib
import numpy as np
from sfxlab.indexing import judged

KNOWN = json.loads(pathlib.Path(__file__).with_name("known.json").read_text())

BAD = "9510"

def indexer(frames, cell, recipe):
    energies = [str(round(spots.photon_energy)) for spots in frames]
    if BAD in energies:
        raise RuntimeError("out of device memory")
    return [
        judged(spots.q, [np.array(KNOWN[energy])], cell, recipe)
        for spots, energy in zip(frames, energies, strict=True)
    ]

def careless(frames, cell, recipe):
    return []
"""


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package with indexers, installed in a folder of its own."""
    folder = tmp_path / "site"
    (folder / "gpu_indexer-2.1.dist-info").mkdir(parents=True)
    (folder / "gpu_indexer.py").write_text(PLUG_IN)
    known = {str(round(energy)): still(i)[1].tolist() for i, energy in enumerate(ENERGIES)}
    (folder / "known.json").write_text(json.dumps(known))
    (folder / "gpu_indexer-2.1.dist-info/METADATA").write_text(
        "Metadata-Version: 2.1\nName: gpu-indexer\nVersion: 2.1\n"
    )
    (folder / "gpu_indexer-2.1.dist-info/entry_points.txt").write_text(
        "[sfxlab.indexers]\ngpu = gpu_indexer:indexer\ncareless = gpu_indexer:careless\nbroken = gpu_indexer:nothing\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "gpu_indexer", raising=False)


@pytest.mark.usefixtures("plug_in")
def test_a_plug_in_indexes_and_what_it_raises_costs_one_frame() -> None:
    frames, recipe = [still(i)[0] for i in range(3)], IndexingRecipe(method="gpu:fast")
    check_indexer(CELL, recipe)
    assert indexer_version(recipe) == {"gpu-indexer": "2.1"}
    first, second, third = index_frames(frames, CELL, recipe)
    assert len(first.lattices) == len(third.lattices) == 1
    assert isinstance(second, FrameError)
    assert "RuntimeError: out of device memory" in str(second)


def test_a_run_with_a_plug_in_goes_on_past_what_it_raises(
    shared_data: Path, tmp_path: Path, plug_in: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shared_data / "lyso"
    truth = json.loads((folder / "truth/truth.json").read_text())["frames"]
    single = [facts for facts in truth if facts["kind"] == "single"][:3]
    known = {
        str(round(facts["photon_energy_eV"])): (
            np.array([facts["crystals"][0][axis] for axis in ("astar", "bstar", "cstar")]).T / 10
        ).tolist()
        for facts in single
    }
    (tmp_path / "site/known.json").write_text(json.dumps(known))
    monkeypatch.setattr(importlib.import_module("gpu_indexer"), "BAD", str(round(single[1]["photon_energy_eV"])))
    (tmp_path / "some.lst").write_text("".join(f"{folder / 'lyso.cxi'} //{facts['frame']}\n" for facts in single))
    frames = open_frames(tmp_path / "some.lst", folder / "lyso.geom")
    recipe = Recipe().with_cell(read_cell(folder / "lyso.cell")).changed(indexing={"method": "gpu"})
    runs = [process(frames, recipe, None, tmp_path / f"run{size}", chunk_size=size, progress=None) for size in (3, 1)]
    assert runs[0].record.indexed_by == {"gpu-indexer": "2.1"}
    together, apart = ([*run.results()] for run in runs)
    assert [result.status for result in together] == ["indexed", "failed", "indexed"]
    assert "RuntimeError: out of device memory" in together[1].reason
    for one, other in zip(together, apart, strict=True):
        assert (one.status, one.reason) == (other.status, other.reason)
        for a, b in zip(one.crystals, other.crystals, strict=True):
            np.testing.assert_array_equal(a.basis, b.basis)


@pytest.mark.usefixtures("plug_in")
def test_a_plug_in_that_answers_nonsense_is_an_error_of_its_frames() -> None:
    (result,) = index_frames([still(0)[0]], CELL, IndexingRecipe(method="careless"))
    assert "0 results for 1 frames" in str(result)


@pytest.mark.usefixtures("plug_in")
def test_a_plug_in_that_cannot_be_loaded_is_said_before_any_work() -> None:
    with pytest.raises(RecipeError, match="the plug-in 'broken' cannot be loaded"):
        check_indexer(CELL, IndexingRecipe(method="broken"))


def test_a_wrong_lattice_of_whatever_indexer_is_not_believed() -> None:
    spots, basis = still(0)
    wrong = Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix() @ basis
    found = judged(spots.q, [wrong], CELL, IndexingRecipe())
    assert found.lattices == ()
    assert found.reason.startswith("no lattice: ")
    for lengths in ((90.0, 90.0, 37.8), (79.3, 79.3, 41.5), (61.0, 61.0, 53.0)):
        other = UnitCell(*lengths, lattice_type="tetragonal", unique_axis="c")
        refused = judged(spots.q, [basis], other, IndexingRecipe())
        assert refused.lattices == ()
        assert refused.reason.startswith(("wrong cell: ", "no lattice: "))


def test_lattices_in_any_setting_come_back_in_that_of_the_cell() -> None:
    spots, basis = still(0)
    turned = basis @ np.array([[0, 0, 1], [1, 0, 0], [0, 1, 0]]) @ np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]])
    (lattice,) = judged(spots.q, [turned], CELL, IndexingRecipe()).lattices
    np.testing.assert_allclose(1 / np.linalg.norm(lattice.basis, axis=0), CELL.lengths, rtol=2e-3)
    (free,) = judged(spots.q, [turned], None, IndexingRecipe()).lattices
    assert misorientation(free.basis, basis) < 0.1


def test_the_streams_that_indexamajig_wrote_are_read(shared_data: Path, tmp_path: Path) -> None:
    stream = tmp_path / "out.stream"
    text = gzip.decompress((shared_data / "lyso/reference/xgandalf_cell.stream.gz").read_bytes()).decode()
    stream.write_text(text)
    answers = read_answers(stream)
    assert (len(answers), sum(map(len, answers.values()))) == (120, 95)
    stream.write_text(text[: len(text) // 2])
    assert 0 < len(read_answers(stream)) < 120


def dials() -> bool:
    """Whether this machine has DIALS."""
    return any(shutil.which(name) for name in ("dials.python", "dials.index"))


needs_dials = pytest.mark.skipif(not dials(), reason="DIALS is not installed (Debian: python3-dials)")


@needs_dials
def test_dials_finds_the_lattices_of_stills_whatever_their_kind() -> None:
    centred = UnitCell(61, 73, 52, 90, 105, 90, lattice_type="monoclinic", centring="C", unique_axis="b")
    recipe = IndexingRecipe(method="dials", max_lattices=1)
    assert indexer_version(recipe)["DIALS"].startswith("DIALS ")
    for cell in (CELL, centred):
        frames, bases = zip(*(still(i, cell) for i in range(3)), strict=True)
        results = index_frames(frames, cell, recipe)
        right = sum(
            bool(found.lattices) and misorientation(found.lattices[0].basis, basis, cell) < 0.3
            for basis, found in zip(bases, results, strict=True)
        )
        assert right >= 2, [found.reason for found in results]


@needs_dials
def test_a_run_is_indexed_by_dials_from_the_command_line(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "lyso"
    truth = json.loads((folder / "truth/truth.json").read_text())["frames"]
    some = [facts["frame"] for facts in truth if facts["kind"] == "single"][:4]
    (tmp_path / "some.lst").write_text("".join(f"{folder / 'lyso.cxi'} //{number}\n" for number in some))
    (tmp_path / "my.toml").write_text(
        Recipe().changed(indexing={"max_lattices": 1}, bad_pixels={"learn": False}).to_toml()
    )
    command: Sequence[str] = (
        "process", "some.lst", "-g", str(folder / "lyso.geom"), "-p", str(folder / "lyso.cell"),
        "--recipe", "my.toml", "--indexing", "dials", "-o", "run", "--workers", "0", "--json",
    )  # fmt: skip
    (tmp_path / "scratch").mkdir()
    call = [sys.executable, "-c", "from sfxlab.cli import main; main()", *command]
    done = subprocess.run(
        call, cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path / "scratch")}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["indexed"] >= 3
    assert json.loads((tmp_path / "run/run.json").read_text())["indexed_by"]["DIALS"].startswith("DIALS ")
    assert not [*(tmp_path / "scratch").glob("sfxlab-*")]
