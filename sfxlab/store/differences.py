"""What two runs were made from that is not the same: files, geometry, frames, and programs."""

from __future__ import annotations

from sfxlab.store.record import RunRecord


def moved_files(first: RunRecord, second: RunRecord) -> dict[str, str]:
    """Where the files of the second run were in the first, for those that lie somewhere else now."""
    known = {file.path for file in first.files}
    there = {file.content: file.path for file in first.files if file.sha256 is not None}
    return {
        file.path: there[file.content] for file in second.files if file.path not in known and file.content in there
    }  # fmt: skip


def input_differences(first: RunRecord, second: RunRecord) -> list[str]:
    """What differs in files, geometry and frames, one line each. A file that was only moved does not differ."""
    moved = moved_files(first, second)
    old = {file.path: file for file in first.files}
    new = {moved.get(file.path, file.path): file for file in second.files}
    lines = [f"{path}: only in the first run" for path in sorted(old.keys() - new.keys())]
    lines += [f"{path}: only in the second run" for path in sorted(new.keys() - old.keys())]
    both = sorted(old.keys() & new.keys())
    lines += [f"{path}: it has another content" for path in both if old[path].content != new[path].content]
    if (first.linked and first.linked.sha256) != (second.linked and second.linked.sha256):
        lines.append("the files that frames are read from through links are others, or have changed")
    if first.geometry_sha256 != second.geometry_sha256:
        lines.append("the geometry is another one (geometry.geom in the runs)")
    if first.hit_function_sha256 != second.hit_function_sha256:
        lines.append("the function that decides on hits is another one (hit_function.py in the runs)")
    if first.n_frames != second.n_frames:
        lines.append(f"the frames are others: {first.n_frames:,} in the first run, {second.n_frames:,} in the second")
    elif first.frames_sha256 != second.frames_sha256 and not moved:
        lines.append("the frames are others, or in another order (frames.lst in the runs)")
    return lines


def version_differences(first: RunRecord, second: RunRecord) -> dict[str, tuple[str | None, str | None]]:
    """Programs and libraries of other versions; None where one is not there."""
    old, new = first.versions | first.indexed_by, second.versions | second.indexed_by
    return {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}
