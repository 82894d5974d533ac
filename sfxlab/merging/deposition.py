"""Merged data as mmCIF for deposition: reflections, statistics, and what is asked of serial experiments.

Items are those of the PDBx/mmCIF dictionary. What neither the data nor the records of runs know is `?`, for the
depositor to fill in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import gemmi

from sfxlab.errors import OutputExistsError
from sfxlab.geometry import HC_EV_ANGSTROM
from sfxlab.interop.mtz import mtz_of
from sfxlab.merging.distribution import wilson_plot
from sfxlab.merging.files import mtz_table
from sfxlab.merging.statistics import Shell
from sfxlab.merging.table_one import RunFacts, merged_lattices
from sfxlab.whole_files import written_whole

if TYPE_CHECKING:
    from sfxlab.merging.merged import Merged

_NAME = "merged"
_SHELL_ITEMS = {
    "d_res_high": "d_min", "d_res_low": "d_max", "number_unique_obs": "n_unique", "number_possible": "n_possible",
    "number_measured_obs": "n_measurements", "percent_possible_obs": "completeness", "pdbx_redundancy": "multiplicity",
    "meanI_over_sigI_obs": "snr", "pdbx_R_split": "rsplit", "pdbx_CC_half": "cc_half", "pdbx_CC_star": "cc_star",
    "Rmerge_I_all": "r_merge", "pdbx_Rrim_I_all": "r_meas", "pdbx_Rpim_I_all": "r_pim",
    "pdbx_CC_half_anomalous": "cc_ano",
}  # fmt: skip
_OVERALL_ITEMS = {
    "d_resolution_high": "d_min", "d_resolution_low": "d_max", "number_obs": "n_unique", "number_all": "n_possible",
    "pdbx_number_measured_all": "n_measurements", "percent_possible_obs": "completeness",
    "pdbx_redundancy": "multiplicity", "pdbx_netI_over_sigmaI": "snr", "pdbx_R_split": "rsplit",
    "pdbx_CC_half": "cc_half", "pdbx_CC_star": "cc_star", "pdbx_Rmerge_I_all": "r_merge",
    "pdbx_Rrim_I_all": "r_meas", "pdbx_Rpim_I_all": "r_pim", "pdbx_CC_half_anomalous": "cc_ano",
}  # fmt: skip
# What the dictionary allows: of the whole, and of shells.
_LIMITS = {
    "cc_half": ((0, 1), (0, 1)), "rsplit": ((0, 2), (0, 10)), "r_merge": ((0, math.inf), (0, math.inf)),
    "r_meas": ((0, 5), (0, math.inf)), "r_pim": ((0, math.inf), (0, math.inf)),
}  # fmt: skip


def write_mmcif(
    merged: Merged,
    path: Path,
    facts: RunFacts | None = None,
    *,
    overwrite: bool = False,
    with_amplitudes: bool = False,
    free_from: str | Path | None = None,
) -> None:
    """Write reflections and statistics; see `Merged.to_mmcif`."""
    if path.exists() and not overwrite:
        raise OutputExistsError("this file exists", path=path, remedy="choose another name, or ask to overwrite it")
    table = mtz_table(merged, with_amplitudes=with_amplitudes, free_from=free_from)
    converter = gemmi.MtzToCif()
    converter.with_comments = False
    block = gemmi.cif.read_string(converter.write_cif_to_string(mtz_of(table))).sole_block()
    block.name = _NAME
    describe(block, merged, facts)
    # Reflections last, where nobody has to pass them to see the rest.
    block.move_item(next(i for i, item in enumerate(block) if item.loop and "_refln.index_h" in item.loop.tags), -1)
    with written_whole(path) as file:
        file.write(block_text(block).encode())


def statistics_text(
    merged: Merged, facts: RunFacts | None = None, d_min: float | None = None, d_max: float | None = None
) -> str:
    """The mmCIF items of the data between `d_min` and `d_max` (Å), but for reflections: Table 1 for deposition."""
    block = gemmi.cif.Block(_NAME)
    describe(block, merged, facts, d_min, d_max)
    return block_text(block)


def block_text(block: gemmi.cif.Block) -> str:
    """The text of a file that holds one block."""
    document = gemmi.cif.Document()
    document.add_copied_block(block)
    return str(document.as_string())


def describe(
    block: gemmi.cif.Block,
    merged: Merged,
    facts: RunFacts | None = None,
    d_min: float | None = None,
    d_max: float | None = None,
) -> None:
    """Add the experiment, the statistics and the software to a block."""
    entry = block.name
    energy = HC_EV_ANGSTROM / merged.wavelength / 1000 if merged.wavelength > 0 else math.nan
    _pairs(block, "entry", {"id": entry})
    _pairs(block, "cell", {
        "entry_id": entry,
        **{f"length_{axis}": _value(x, 3) for axis, x in zip("abc", merged.cell.lengths, strict=True)},
        **{f"angle_{a}": _value(x, 3) for a, x in zip(("alpha", "beta", "gamma"), merged.cell.angles, strict=True)},
    })  # fmt: skip
    _pairs(block, "symmetry", {"entry_id": entry, "space_group_name_H-M": merged.space_group or "?"})
    _pairs(block, "exptl_crystal", {"id": "1"})
    _pairs(block, "diffrn", {"id": "1", "crystal_id": "1", "pdbx_serial_crystal_experiment": "Y"})
    _pairs(block, "diffrn_radiation", {"diffrn_id": "1", "wavelength_id": "1"})
    _pairs(block, "diffrn_radiation_wavelength", {"id": "1", "wavelength": _value(merged.wavelength, 5)})
    _serial(block, merged, facts, energy)
    _statistics(block, merged, d_min, d_max)
    _software(block, facts)


def _serial(block: gemmi.cif.Block, merged: Merged, facts: RunFacts | None, energy: float) -> None:
    _pairs(block, "pdbx_serial_crystallography_measurement", {
        "diffrn_id": "1", "pulse_photon_energy": _value(energy, 4),
        **dict.fromkeys(("pulse_energy", "pulse_duration", "xfel_pulse_repetition_rate", "focal_spot_size"), "?"),
    })  # fmt: skip
    _pairs(block, "pdbx_serial_crystallography_sample_delivery", {"diffrn_id": "1", "description": "?", "method": "?"})
    used = merged_lattices(merged)
    items = {"diffrn_id": "1", "lattices_merged": "?" if used is None else str(used)}
    if facts is not None:
        items |= {
            "frames_total": str(facts.frames), "crystal_hits": str(facts.hits), "frame_hits": str(facts.hits),
            "frames_failed_index": str(facts.hits - facts.indexed), "frames_indexed": str(facts.indexed),
            "lattices_indexed": str(facts.lattices), "xfel_run_numbers": ", ".join(facts.names),
        }  # fmt: skip
    _pairs(block, "pdbx_serial_crystallography_data_reduction", items)


def _statistics(block: gemmi.cif.Block, merged: Merged, d_min: float | None, d_max: float | None) -> None:
    statistics = merged.statistics(10, d_min, d_max)
    _pairs(block, "reflns", {
        "entry_id": block.name, "pdbx_diffrn_id": "1", "pdbx_ordinal": "1",
        **{item: _figure(statistics.overall, name, 0) for item, name in _OVERALL_ITEMS.items()},
        "pdbx_CC_split_method": "by_lattice" if math.isfinite(statistics.overall.cc_half) else "?",
        "B_iso_Wilson_estimate": _value(wilson_plot(merged, d_min, d_max).b_factor, 2),
    })  # fmt: skip
    details = [] if merged.point_group.centrosymmetric else ["Numbers of reflections count Friedel mates apart."]
    if math.isfinite(statistics.overall.r_meas):
        details.append("Rmerge, Rrim and Rpim mean little for stills, whose observations are partial.")
    _pairs(block, "reflns", {"details": " ".join(details)} if details else {})
    rows = [
        [str(number), "1", *(_figure(shell, name, 1) for name in _SHELL_ITEMS.values())]
        for number, shell in enumerate(statistics.shells, start=1)
    ]
    _loop(block, "reflns_shell", ["pdbx_ordinal", "pdbx_diffrn_id", *_SHELL_ITEMS], rows)


def _software(block: gemmi.cif.Block, facts: RunFacts | None) -> None:
    named = dict(facts.software) if facts is not None else {}
    programs = [("data reduction", name, number) for name, number in named.items()]
    programs.append(("data scaling", "sfxlab", version("sfxlab")))
    rows = [[str(n), *program] for n, program in enumerate(programs, start=1)]
    _loop(block, "software", ["pdbx_ordinal", "classification", "name", "version"], rows)


def _figure(shell: Shell, name: str, kind: int) -> str:
    """A figure of the whole (`kind` 0) or of a shell (1); what the dictionary does not allow is unknown."""
    value = getattr(shell, name)
    if name in _LIMITS and not _LIMITS[name][kind][0] < value <= _LIMITS[name][kind][1]:
        return "?"
    if isinstance(value, int):
        return str(value)
    return _value(100 * value if name == "completeness" else value, 4)


def _value(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "?"


def _pairs(block: gemmi.cif.Block, category: str, items: Mapping[str, str]) -> None:
    for item, value in items.items():
        block.set_pair(f"_{category}.{item}", value if value == "?" else gemmi.cif.quote(value))


def _loop(block: gemmi.cif.Block, category: str, items: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    loop = block.init_loop(f"_{category}.", list(items))
    for row in rows:
        loop.add_row([value if value == "?" else gemmi.cif.quote(value) for value in row])
