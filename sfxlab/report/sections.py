"""The sections of a report on a run, each a piece of HTML."""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from sfxlab.errors import SfxlabError
from sfxlab.frames import FrameSource
from sfxlab.report import pictures
from sfxlab.report.charts import chart_html, histogram_chart, radial_chart, robust_deviation
from sfxlab.store import Counts, InputFile, Run, kind_of_reason

EXAMPLES = 6
AVERAGED = 50
_LISTED_FILES = 100
_CELL = {
    "a": ("a", "Å"),
    "b": ("b", "Å"),
    "c": ("c", "Å"),
    "alpha": ("α", "°"),
    "beta": ("β", "°"),
    "gamma": ("γ", "°"),
}


def section(title: str, body: str, lead: str = "") -> str:
    """A section of the page; `body` is HTML, title and lead are text."""
    introduction = f"<p class=lead>{html.escape(lead)}</p>" if lead else ""
    return f"<section><h2>{html.escape(title)}</h2>{introduction}{body}</section>\n"


def cards(figures: Iterable[tuple[str, str, str]]) -> str:
    """Large figures: what, how much, and a remark."""
    return "<div class=cards>" + "".join(
        f"<div class=card><span>{html.escape(label)}</span><b>{html.escape(value)}</b>"
        f"<small>{html.escape(remark)}</small></div>"
        for label, value, remark in figures
    ) + "</div>"  # fmt: skip


def table(head: Sequence[str], rows: Iterable[Sequence[object]], kind: str = "") -> str:
    """A table of texts and numbers; the first column names the row."""
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join(
        "<tr>" + "".join(f"<{'th' if i == 0 else 'td'}>{html.escape(str(x))}</{'th' if i == 0 else 'td'}>"
                         for i, x in enumerate(row)) + "</tr>"
        for row in rows
    )  # fmt: skip
    return (
        f'<div class=scroll><table class="{kind}"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def headline(run: Run, counts: Counts) -> str:
    """How many frames became what."""
    record = run.record
    of_all = "" if record.status == "finished" else f"of {record.n_frames:,}, {record.status}"
    return cards(
        [
            ("frames", f"{counts.frames:,}", of_all),
            ("hits", f"{counts.hits:,}", f"{counts.hit_rate:.1%} of frames"),
            ("indexed", f"{counts.indexed:,}", f"{counts.indexing_rate:.1%} of hits"),
            ("lattices", f"{counts.lattices:,}", f"{counts.lattices / max(counts.indexed, 1):.2f} per indexed frame"),
            ("failed", f"{counts.failed:,}", f"{counts.failed / max(counts.frames, 1):.1%} of frames"),
        ]
    )


def reasons(frames: Mapping[str, Any]) -> str:
    """Why hits were not indexed and frames failed."""
    body = ""
    for status, title in (("hit", "Hits without a lattice"), ("failed", "Failed frames")):
        found = Counter(
            kind_of_reason(reason) for reason, s in zip(frames["reason"], frames["status"], strict=True) if s == status
        )
        total = sum(found.values())
        if total:
            bars = "".join(
                f"<tr><th>{html.escape(reason or 'no reason recorded')}</th><td>{n:,}</td>"
                f'<td class=bar><i style="width:{100 * n / total:.1f}%"></i></td></tr>'
                for reason, n in found.most_common(12)
            )
            body += f"<h3>{title}: {total:,}</h3><table class=bars>{bars}</table>"
    return section("Why not indexed", body or "<p>Every hit was indexed, and no frame failed.</p>")


def cells(crystals: Mapping[str, Any]) -> str:
    """Histograms of the cell parameters of the most frequent lattice."""
    kinds = Counter(zip(crystals["lattice_type"], crystals["centring"], strict=True))
    if not kinds:
        return section("Unit cells", "<p>No lattice was found.</p>")
    (lattice, centring), n = kinds.most_common(1)[0]
    chosen = np.array(
        [kind == (lattice, centring) for kind in zip(crystals["lattice_type"], crystals["centring"], strict=True)]
    )
    charts, rows = "", []
    for name, (symbol, unit) in _CELL.items():
        values = np.asarray(crystals[name], dtype=np.float64)[chosen]
        deviation = robust_deviation(values)
        rows.append(
            (symbol, f"{np.median(values):.3f} {unit}", f"{deviation:.3f}", f"{values.min():.2f} – {values.max():.2f}")
        )
        # Angles that the lattice fixes have nothing to show.
        if deviation > 1e-6:
            charts += f"<div>{chart_html(histogram_chart(values, f'{symbol} / {unit}'))}</div>"
    summary = table(("", "median", "robust σ", "range"), rows, "numbers")
    lead = f"{n:,} of {sum(kinds.values()):,} lattices are {lattice} {centring}. The dashed lines are medians."
    return section("Unit cells", f"<div class=charts>{charts}</div>{summary}", lead)


def detector(run: Run, source: FrameSource | None, frames: Mapping[str, Any], problem: str) -> str:
    """The mean of hits, and the radial distribution of peaks."""
    body = ""
    if source is None:
        body += no_picture(problem, "Mean of hits")
    else:
        hits = np.flatnonzero(np.isin(frames["status"], ["hit", "indexed"]))
        mean = pictures.mean_png(source, pictures.spread(frames["frame"][hits], AVERAGED), 640)
        if mean is not None:
            body += picture(mean[0], f"Mean of {mean[1]} hits, evenly spaced over the run")
    counts, radial = pictures.peaks_by_resolution(run), ""
    if counts.any():
        radial = "<h3>Peaks by resolution</h3>" + chart_html(radial_chart(counts, pictures.RADIAL_STEP))
    lead = "Seen from the detector towards the source: x to the right, y up."
    return section("Detector", f"<div class=pictures>{body}</div>{radial}", lead)


def examples(run: Run, source: FrameSource | None, frames: Mapping[str, Any], problem: str) -> str:
    """Some indexed frames, or hits where none is indexed, with peaks and predictions."""
    if source is None:
        return section("Example frames", f"<p class=missing>{html.escape(problem)}</p>")
    status = np.array(frames["status"])
    chosen = np.flatnonzero(status == "indexed")
    if len(chosen) == 0:
        chosen = np.flatnonzero(status == "hit")
    body = ""
    for result in pictures.results_at(run, pictures.spread(frames["frame"][chosen], EXAMPLES)):
        name = f"{PurePath(result.id.path).name} {result.id.event}"
        caption = f"{name}: {plural(len(result.peaks), 'peak')}, {plural(len(result.crystals), 'lattice')}"
        try:
            body += picture(pictures.example_png(source, result, 640), caption)
        except SfxlabError as error:
            body += no_picture(str(error), caption)
    lead = "Circles are peaks that were found, squares predicted reflections, one colour for each lattice."
    return section("Example frames", f"<div class=pictures>{body or '<p>There are no hits.</p>'}</div>", lead)


def plural(n: int, noun: str) -> str:
    """A number of things."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def picture(png: bytes, caption: str) -> str:
    """A picture with its caption."""
    text = html.escape(caption)
    return f'<figure><img src="{pictures.data_uri(png)}" alt="{text}"><figcaption>{text}</figcaption></figure>'


def no_picture(problem: str, caption: str) -> str:
    """Why there is no picture, in its place."""
    return (
        f"<figure><p class=missing>{html.escape(problem)}</p><figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def timings(run: Run) -> str:
    """Time spent in each step."""
    steps = run.timings.group_by("step").aggregate([("seconds", "sum"), ("seconds", "mean"), ("seconds", "count")])
    rows = sorted(steps.to_pylist(), key=lambda step: -step["seconds_sum"])
    total = sum(step["seconds_sum"] for step in rows)
    if total == 0:
        return ""
    lines = [
        (
            step["step"],
            f"{1000 * step['seconds_mean']:.1f} ms",
            f"{step['seconds_count']:,}",
            f"{step['seconds_sum']:.1f} s",
            f"{step['seconds_sum'] / total:.0%}",
        )
        for step in rows
    ]
    lead = (
        f"{total:.1f} s in all, {1000 * total / max(run.counts.frames, 1):.1f} ms per frame, summed over all workers."
    )
    return section("Time", table(("step", "per frame", "frames", "sum", "share"), lines, "numbers"), lead)


def recipe(run: Run) -> str:
    """All parameters."""
    text = html.escape(run.recipe.to_toml())
    return section("Recipe", f"<details open><summary>all parameters</summary><pre>{text}</pre></details>")


def provenance(run: Run) -> str:
    """What was made from what, by whom, when, with which versions."""
    record = run.record
    finished = f"{record.finished:%Y-%m-%d %H:%M:%S %Z}" if record.finished else record.status
    facts = [
        ("run", run.path),
        ("command", " ".join(record.command) or "called from Python"),
        ("user", f"{record.user} on {record.host}"),
        ("started", f"{record.started:%Y-%m-%d %H:%M:%S %Z}"),
        ("finished", finished),
        ("geometry", f"SHA-256 {record.geometry_sha256}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in record.versions.items())),
    ]
    files = [_file_row(file) for file in record.files[:_LISTED_FILES]]
    left_out = len(record.files) - len(files)
    more = f"<p>{left_out:,} more files are listed in run.json.</p>" if left_out > 0 else ""
    if record.linked is not None:
        size = f"{record.linked.size / 1e6:,.1f} MB"
        more += f"<p>{record.linked.n_files:,} more files, {size}, are read through links in these.</p>"
    inputs = table(("input", "size", "SHA-256", "of"), files, "checksums")
    return section("Provenance", table(("", ""), facts, "facts") + "<h3>Inputs</h3>" + inputs + more)


def _file_row(file: InputFile) -> tuple[str, str, str, str]:
    size = "" if file.size is None else f"{file.size / 1e6:,.1f} MB"
    return file.path, size, file.sha256 or "", file.hashed
