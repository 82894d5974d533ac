from __future__ import annotations

from datetime import datetime, timedelta

from sfxlab.cluster.queue import QueuedJob, read_queue, waiting_text

# Printed by squeue of SLURM 22.05 with QUEUE_COMMAND.
_PRINTED = """\
3|PENDING|Priority|2026-11-21T21:58:31
4|PENDING|Resources|N/A
1|RUNNING|None|2026-11-21T19:58:31
2|CANCELLED|None|2026-11-21T19:58:31
5|FAILED|NonZeroExitCode|2026-11-21T19:59:00
"""


def test_the_queue_is_read_as_squeue_prints_it() -> None:
    jobs = read_queue(_PRINTED)
    assert jobs["3"] == QueuedJob("3", "PENDING", "Priority", datetime(2026, 11, 21, 21, 58, 31))
    assert jobs["4"].start is None
    assert [number for number, job in jobs.items() if job.has_ended] == ["2", "5"]
    assert jobs["2"].end == "CANCELLED"
    assert jobs["5"].end == "FAILED (NonZeroExitCode)"


def _pending(number: int, reason: str, start: datetime | None) -> QueuedJob:
    return QueuedJob(str(number), "PENDING", reason, start)


def test_waiting_is_told_in_the_words_of_slurm_with_the_earliest_start() -> None:
    today = datetime.now().replace(hour=14, minute=20)
    jobs = [_pending(1, "Priority", today + timedelta(minutes=5)), _pending(2, "Priority", today)]
    assert waiting_text(0, 20, jobs, 0, [], "") == "0 of 20 workers: PENDING (Priority), expected 14:20"


def test_a_start_on_another_day_has_its_date() -> None:
    jobs = [_pending(1, "Resources", datetime(2020, 2, 29, 7, 5))]
    assert waiting_text(1, 2, jobs, 0, [], "").endswith("PENDING (Resources), expected 2020-02-29 07:05")


def test_jobs_in_several_states_are_counted() -> None:
    jobs = [_pending(1, "Priority", None), _pending(2, "Priority", None), QueuedJob("3", "RUNNING", "None", None)]
    text = waiting_text(4, 20, jobs, 1, [], "")
    assert text == (
        "4 of 20 workers: 2 jobs PENDING (Priority); 1 job RUNNING, workers are starting; 1 job being submitted"
    )


def test_a_reason_that_does_not_pass_is_said_to_be_one() -> None:
    assert "does not pass by waiting" in waiting_text(0, 1, [_pending(1, "PartitionTimeLimit", None)], 0, [], "")


def test_a_job_whose_node_is_started_first_says_so() -> None:
    text = waiting_text(2, 3, [QueuedJob("3", "CONFIGURING", "None", None)], 0, [], "")
    assert text == "2 of 3 workers: CONFIGURING, a node is being started"


def test_failures_and_a_silent_slurm_are_told() -> None:
    text = waiting_text(0, 1, [], 1, ["job 7: FAILED (NonZeroExitCode)\n  line of a log"], "Unable to contact")
    assert text.endswith(
        "SLURM does not answer: Unable to contact; the last one failed: job 7: FAILED (NonZeroExitCode)"
    )
