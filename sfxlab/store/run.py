"""A processed data set on disk, growing or finished."""

from __future__ import annotations

import functools
import html
import logging
import os
import shutil
import time
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sfxlab.bad_pixels import LearnedMask, read_learned_mask, summary_of_mask, with_learned_mask
from sfxlab.errors import GeometryError, InputError, OutputExistsError, RunError, SfxlabError, UnreachableError
from sfxlab.frames import FrameId, FrameSource, open_frames
from sfxlab.frames.profiled import with_profiles
from sfxlab.frames.spot_profiles import SpotProfiles, read_spot_profiles
from sfxlab.geometry import Detector, Geometry, read_geometry
from sfxlab.peaks.ice import ICE, SALT
from sfxlab.peaks.radial_average import RadialSums
from sfxlab.pipeline import FrameResult
from sfxlab.recipe import Recipe
from sfxlab.store.counts import Counts, kind_of_reason
from sfxlab.store.parts import (
    committed_chunks,
    learned_mask_path,
    part_path,
    profiles_path,
    read_part,
    remove_leftovers,
    results_in_chunk,
    write_chunk,
)
from sfxlab.store.powder import PowderFrames, powder_of
from sfxlab.store.progress import Progress, Report, reported
from sfxlab.store.projection import read_projection
from sfxlab.store.rates import HitRates, hit_rates
from sfxlab.store.record import RunRecord, names_sha256, read_record
from sfxlab.store.tables import RADIAL_KINDS, SCHEMAS, RadialKind, TableName, radial_sums_of
from sfxlab.store.under_way import DIED, TOO_LONG, forget_notes
from sfxlab.store.writer import Writer, Writing, begin_writing, last_writer
from sfxlab.whole_files import written_whole

_LOG = logging.getLogger(__name__)

PASSING_REASONS = (UnreachableError.__name__, DIED, TOO_LONG)
"""How the reasons of failed frames begin that another try may not meet again."""


class Run:
    """A run on disk: six tables beside `run.json`, `recipe.toml`, `geometry.geom` and `frames.lst`.

    Tables are read anew at every access, because a run may be growing; keep them in a variable. All are in the
    order of frames. Opening raises `RunError` where `path` is no run.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        read_record(self.path / "run.json")

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        record: RunRecord,
        names: Iterable[FrameId],
        geometry_text: str = "",
    ) -> Run:
        """A new run without chunks; `names` are those of all frames.

        Raises `OutputExistsError` where something is there already, and `RunError` where it cannot be written.
        """
        target = Path(path).absolute()
        cls.require_absent(target)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            for table in SCHEMAS:
                (aside / table).mkdir(parents=True)
            (aside / "recipe.toml").write_text(record.recipe.to_toml(), encoding="utf-8")
            with open(aside / "frames.lst", "w", encoding="utf-8", errors="surrogateescape") as listing:
                listing.writelines(f"{name}\n" for name in names)
            if geometry_text:
                (aside / "geometry.geom").write_text(geometry_text, encoding="utf-8", newline="")
            (aside / "run.json").write_text(record.to_json(), encoding="utf-8")
            aside.rename(target)
        except OSError as error:
            shutil.rmtree(aside, ignore_errors=True)
            cls.require_absent(target)  # somebody may have begun the same at the same time
            raise RunError("the run cannot be created", path=target, found=error.strerror) from error
        return cls(target)

    @staticmethod
    def require_absent(path: Path) -> None:
        """Raise `OutputExistsError` where something is at `path` already."""
        if os.path.lexists(path):
            raise OutputExistsError(
                "the output is already there", path=path, remedy="continue it with --resume, or give another -o"
            )

    @staticmethod
    def require_startable(path: Path) -> None:
        """Raise `OutputExistsError` where something is at `path` already.

        But a run is not in the way that somebody writes at this moment, or has made and not begun to write.
        """
        if not (path / "run.json").exists():
            Run.require_absent(path)
            return
        run, last = Run(path), last_writer(path)
        untouched = last is None and run.record.status == "running" and not committed_chunks(path)
        if not (untouched or run.writer):
            Run.require_absent(path)

    @property
    def record(self) -> RunRecord:
        """The content of `run.json` at this moment."""
        return read_record(self.path / "run.json")

    @property
    def recipe(self) -> Recipe:
        """The parameters that the run is made with."""
        return self.record.recipe

    @property
    def is_finished(self) -> bool:
        """Whether every frame has been processed."""
        return self.record.status == "finished"

    @property
    def frames(self) -> pa.Table:
        """One row a frame: name, status, reason, photon energy…"""
        return self.table("frames")

    @property
    def peaks(self) -> pa.Table:
        """One row a peak, with the number of its frame."""
        return self.table("peaks")

    @property
    def crystals(self) -> pa.Table:
        """One row a crystal, with the number of its frame."""
        return self.table("crystals")

    @property
    def reflections(self) -> pa.Table:
        """One row a reflection, with the numbers of its frame and crystal."""
        return self.table("reflections")

    @property
    def timings(self) -> pa.Table:
        """One row for each frame and step: seconds."""
        return self.table("timings")

    @property
    def counts(self) -> Counts:
        """How many of the frames so far became what."""
        parts = self.parts("frames", ["status", "n_crystals"])
        of_parts = (Counts.of(part["status"].to_pylist(), sum(part["n_crystals"].to_pylist())) for part in parts)
        return sum(of_parts, Counts())

    def table(self, name: TableName, columns: Sequence[str] | None = None) -> pa.Table:
        """A whole table, all columns or some."""
        schema = SCHEMAS[name]
        wanted = schema if columns is None else pa.schema([schema.field(column) for column in columns])
        with ThreadPoolExecutor(8) as pool:
            parts = pool.map(lambda chunk: read_part(self.path, name, chunk, columns), committed_chunks(self.path))
            return pa.concat_tables([wanted.empty_table(), *parts])

    def parts(self, name: TableName, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """A table chunk by chunk, for runs larger than the memory."""
        for chunk in committed_chunks(self.path):
            yield read_part(self.path, name, chunk, columns)

    def results(self) -> Iterator[FrameResult]:
        """What became of each frame so far, in order; one chunk in memory at a time."""
        for chunk in committed_chunks(self.path):
            yield from results_in_chunk(self.path, chunk)

    def result(self, index: int) -> FrameResult:
        """What became of one frame. Raises `RunError` where it is not processed yet."""
        chunk, position = divmod(index, self.record.chunk_size)
        if index < 0 or chunk not in committed_chunks(self.path):
            raise RunError(
                "this frame is not in the run so far", path=self.path, found=f"frame {index}",
                expected=f"0 to {self.record.n_frames - 1}, of those that are processed",
            )  # fmt: skip
        return next(islice(results_in_chunk(self.path, chunk), position, None))

    def hit_rate(self, windows: int = 50, confidence: float = 0.95) -> HitRates:
        """Hit rate and indexing rate along the run so far, in that many windows, with bands of that confidence."""
        return hit_rates(self.table("frames", ["frame", "status"]), windows, confidence)

    def powder(self, frames: PowderFrames = "all") -> NDArray[np.float64]:
        """The virtual powder of the frames so far: the sum of their peaks, ADU, in the shape of the slab.

        Raises `RunError` where the run does not say what its detector was.
        """
        return powder_of(self.path, committed_chunks(self.path), self.slab_shape, frames)

    def maximum_projection(self) -> NDArray[np.float32] | None:
        """The largest value that each pixel had in the hits so far, ADU, in the shape of the slab.

        NaN where no pixel was good; None where there are no hits so far, or the run was imported without pixels.
        """
        return read_projection(self.path)

    def radial_average(self, kind: RadialKind | None = None) -> RadialSums:
        """The mean of pixels by 1/d over the hits, the blanks, or both, so far: `.resolution` and `.mean`.

        Sums are over a sample of the pixels of every frame.
        """
        kinds = RADIAL_KINDS if kind is None else (kind,)
        sums = (radial_sums_of(part, one) for part in self.parts("radial") for one in kinds)
        return sum(sums, RadialSums.none())

    def missing_chunks(self) -> list[int]:
        """Numbers of the chunks that are not processed yet."""
        done = set(committed_chunks(self.path))
        return [chunk for chunk in range(self.record.n_chunks) if chunk not in done]

    @property
    def bad_pixels(self) -> LearnedMask | None:
        """The bad pixels that were learned from the run's frames; None where none were looked for."""
        path = learned_mask_path(self.path)
        return read_learned_mask(path) if path.exists() else None

    @property
    def profiles(self) -> SpotProfiles | None:
        """The shapes of spots that were learned from the run's frames; None where there are none."""
        path = profiles_path(self.path)
        return read_spot_profiles(path) if path.exists() else None

    def open_frames(self, inputs: Sequence[str] | None = None, *, learned_mask: bool = True) -> FrameSource:
        """The frames that the run was made from, numbered as in its tables; or the same, moved to `inputs`.

        They carry the shapes of spots that were learned from the run; with `learned_mask`, bad pixels that were
        learned are bad in them. So `process_frame` gives what the run has.

        Raises `InputError`, `GeometryError`, or `RunError` where `inputs` has another number of frames.
        """
        frames = self.open_inputs(inputs)
        frames = with_profiles(frames, profiles_path(self.path))
        return with_learned_mask(frames, learned_mask_path(self.path)) if learned_mask else frames

    def open_inputs(self, inputs: Sequence[str] | None = None) -> FrameSource:
        """The same frames as they were before anything was learned from them; `run.json` is enough for that.

        Raises as `open_frames` does.
        """
        record = self.record
        known = self._geometry()
        geometry = record.geometry_path if known is None else known
        if inputs is None:
            unopened: SfxlabError | None = None
            try:
                frames = open_frames(record.inputs, geometry)
                if names_sha256(frames.identity(index) for index in range(len(frames))) == record.frames_sha256:
                    return frames
            except (InputError, GeometryError) as error:
                unopened = error
            try:
                # The run is of a slice of them, or files have come since.
                return open_frames(self.path / "frames.lst", geometry)
            except (InputError, GeometryError) as error:
                raise unopened or error from None
        frames = open_frames(inputs, geometry)
        if len(frames) != record.n_frames:
            raise RunError(
                "these are not the frames of the run", path=self.path,
                found=f"{len(frames)} frames", expected=f"{record.n_frames} frames",
            )  # fmt: skip
        return frames

    def unreachable_frames(self) -> list[int]:
        """Numbers of the frames that failed because their file on the network could not be read."""
        return self._failed_by((UnreachableError.__name__,))

    def frames_to_try_again(self) -> list[int]:
        """Numbers of the frames that failed for a reason that may have passed: network, memory or time."""
        return self._failed_by(PASSING_REASONS)

    def _failed_by(self, kinds: tuple[str, ...]) -> list[int]:
        numbers: list[int] = []
        for part in self.parts("frames", ["frame", "reason"]):
            some = (pc.starts_with(part["reason"], kind) for kind in kinds)
            numbers += part["frame"].filter(functools.reduce(pc.or_, some)).to_pylist()
        return numbers

    @property
    def geometry_text(self) -> str:
        """The geometry file that the frames were read with, empty where they carried their geometry themselves."""
        path = self.path / "geometry.geom"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def detector(self) -> Detector:
        """The detector at the median camera length of the frames. Raises `RunError` where the run does not say."""
        lengths = self.table("frames", ["camera_length"])["camera_length"].to_numpy()
        known = lengths[np.isfinite(lengths)]
        if not len(known):
            raise RunError("the run does not say what its detector was", path=self.path)
        return self.detector_at(float(np.median(known)))

    def detector_at(self, camera_length: float) -> Detector:
        """The detector at the camera length (m) of a frame. Raises `RunError` where the run does not say."""
        geometry = self._known_geometry()
        # A frame's camera length is the mean over its panels; a geometry file gives it without `coffset`.
        offset = float(np.mean([source.panel.corner[2] for source in geometry.panels]))
        return geometry.detector(camera_length - offset)

    @property
    def slab_shape(self) -> tuple[int, int]:
        """Shape of the frames, (slow, fast). Raises `RunError` where the run does not say."""
        return self._known_geometry().shape

    def _known_geometry(self) -> Geometry:
        geometry = self._geometry()
        if geometry is None:
            raise RunError("the run does not say what its detector was", path=self.path)
        return geometry

    def _geometry(self) -> Geometry | None:
        path = self.path / "geometry.geom"
        if not path.exists():
            return None
        # Mask files may be named by their way from where the geometry file was.
        return replace(read_geometry(path), path=self.record.geometry_path)

    def write_chunk(self, chunk: int, results: Sequence[FrameResult]) -> None:
        """Add the frames of one chunk, all of them, in order. Raises `RunError`."""
        expected = self.record.frames_of(chunk)
        if [result.index for result in results] != list(expected):
            raise RunError(
                "these are not the frames of the chunk",
                path=part_path(self.path, "frames", chunk),
                found=f"{len(results)} frames",
                expected=f"frames {expected.start} to {expected.stop - 1}, in order",
            )
        write_chunk(self.path, chunk, results)

    @contextmanager
    def writing(self) -> Iterator[Writing]:
        """Hold the run for writing; nobody else can meanwhile. Leaving it, whatever the reason, records the status.

        Raises `RunInUseError`, which says who, where another process writes this run, and `RunError` where it cannot
        be written.
        """
        with closing(begin_writing(self.path)) as writing:
            remove_leftovers(self.path)
            forget_notes(self.path)
            self._set(status="running", finished=None)
            try:
                yield writing
            except BaseException:
                try:
                    self._ended(writing)
                except RunError:
                    # What ended it says why, a full disk for one; without the status it can be resumed as well.
                    _LOG.warning("the status of %s is not recorded", self.path, exc_info=True)
                raise
            self._ended(writing)

    def _ended(self, writing: Writing) -> None:
        writing.check()
        complete = not self.missing_chunks()
        finished = datetime.now(UTC) if complete else None
        self._set(status="finished" if complete else "interrupted", finished=finished)

    @property
    def writer(self) -> Writer | None:
        """The process that writes this run now; None where none does."""
        last = last_writer(self.path)
        return last if last is not None and last.is_alive else None

    def attach(self, progress: Report | Literal["auto"] | None = "auto", interval: float = 1.0) -> Run:
        """Show how far the process is that writes this run, until it has ended, and return the run.

        Whoever may read the run can attach to it, from other notebooks and machines too, and leave without disturbing
        it. `progress` is as in `process`; it is looked at every `interval` seconds. Raises `RunError`, which says what
        is missing, where the run is not finished and nobody writes it any more.
        """
        with reported(progress) as report:
            while (writer := self.writer) is not None:
                if writer.progress is not None:
                    report(writer.progress)
                time.sleep(interval)
            record, counts = self.record, self.counts
            report(Progress(counts, record.n_frames, 0, 0.0))
        if not self.is_finished:
            raise RunError(
                "this run is not finished, and nobody is writing it", path=self.path,
                found=f"{self.missing()}; the last was {last_writer(self.path) or 'nobody'}",
                remedy="continue it with --resume",
            )  # fmt: skip
        return self

    def missing(self) -> str:
        """What a session that continues this run has to do, in words."""
        record, chunks = self.record, self.missing_chunks()
        frames = sum(len(record.frames_of(chunk)) for chunk in chunks)
        text = f"{frames:,} of {record.n_frames:,} frames are missing ({len(chunks):,} of {record.n_chunks:,} chunks)"
        again = len(self.frames_to_try_again())
        return f"{text}; {again:,} that failed are tried again" if again else text

    def resumed(self) -> None:
        """Record that processing goes on now. Only inside `writing`."""
        self._set(resumed=(*self.record.resumed, datetime.now(UTC)))

    def _set(self, **changes: Any) -> None:
        text = self.record.model_copy(update=changes).to_json()
        with written_whole(self.path / "run.json") as file:
            file.write(text.encode("utf-8"))

    def reasons(self) -> dict[str, int]:
        """Why hits are not indexed and frames failed, with the number of frames, the most frequent kind first."""
        reasons = self.table("frames", ["reason"])["reason"].to_pylist()
        return dict(Counter(kind_of_reason(reason) for reason in reasons if reason).most_common())

    @property
    def ice_and_salt(self) -> tuple[int, int]:
        """Frames so far with ice, in spots or powder rings, and with crystals of salt."""
        frames = self.table("frames", ["ice_spots", "ice_rings", "salt"])
        spots, rings, salt = (frames[name].to_numpy() for name in frames.column_names)
        return int(np.count_nonzero((spots >= ICE) | (rings >= ICE))), int(np.count_nonzero(salt >= SALT))

    def summary(self) -> dict[str, str]:
        """The run in a few words and numbers."""
        record, counts = self.record, self.counts
        mask = learned_mask_path(self.path)
        ice, salt = self.ice_and_salt
        return {
            "frames": f"{counts.frames} of {record.n_frames}",
            "hits": f"{counts.hits} ({counts.hit_rate:.1%} of frames)",
            "indexed": f"{counts.indexed} ({counts.indexing_rate:.1%} of hits)",
            "lattices": str(counts.lattices),
            "failed": str(counts.failed),
            **({"ice": f"{ice} ({ice / counts.frames:.1%} of frames)"} if ice else {}),
            **({"salt": f"{salt} ({salt / counts.frames:.1%} of frames)"} if salt else {}),
            **({"bad pixels": summary_of_mask(mask)} if mask.exists() else {}),
            **({} if self.profiles is None else {"shape of spots": str(self.profiles)}),
            "status": record.status,
        }

    def __repr__(self) -> str:
        facts = ", ".join(f"{name} {value}" for name, value in self.summary().items())
        return f"<Run {self.path}: {facts}>"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{value}</td></tr>" for name, value in self.summary().items())
        return f"<table><caption>Run {html.escape(str(self.path))}</caption>{rows}</table>"
