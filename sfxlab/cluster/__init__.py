"""One connection to Dask, wherever it runs: this machine, SLURM, MPI, or a scheduler that is there already."""

from sfxlab.cluster.connect import DEATHS_TOLERATED, connect, connection_lost, task_result
from sfxlab.cluster.waiting import settled, wait_for_workers, waiting_for, waiting_line

__all__ = [
    "DEATHS_TOLERATED",
    "connect",
    "connection_lost",
    "settled",
    "task_result",
    "wait_for_workers",
    "waiting_for",
    "waiting_line",
]
