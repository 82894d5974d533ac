"""Runs on disk."""

from sfxlab.store.counts import Counts, kind_of_reason
from sfxlab.store.imported import import_stream
from sfxlab.store.monitor import RunMonitor
from sfxlab.store.record import InputFile, RunRecord, describe
from sfxlab.store.run import Run
from sfxlab.store.tables import SCHEMAS, TableName, results_of, tables_of

__all__ = [
    "SCHEMAS",
    "Counts",
    "InputFile",
    "Run",
    "RunMonitor",
    "RunRecord",
    "TableName",
    "describe",
    "import_stream",
    "kind_of_reason",
    "results_of",
    "tables_of",
]
