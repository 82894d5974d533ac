"""Numbers worked out by hand."""

from __future__ import annotations

import math

import pytest

from sfxlab.cluster.estimate import Machines, Work, estimate, in_words

WORK = Work(frames=10_000, seconds_per_frame=1.0, bytes_per_frame=10e6)


def test_machines_that_are_free_take_frames_times_seconds_over_workers() -> None:
    # 10,000 frames of 1 s on 5 workers.
    assert estimate(WORK, Machines(5, 0.0)).here == pytest.approx(2000)


def test_the_queue_comes_before_the_work() -> None:
    found = estimate(WORK, Machines(5, 600.0))
    assert (found.here, found.queued, found.with_burst) == (pytest.approx(2600), 600, None)


def test_added_machines_work_while_the_others_are_queued() -> None:
    # Both do 5 frames/s, from 600 s and from 100 s on: 5 (t - 600) + 5 (t - 100) = 10,000, t = 1350 s.
    found = estimate(WORK, Machines(5, 600.0), Machines(5, 100.0))
    assert found.with_burst == pytest.approx(1350)
    assert found.burst_frames == pytest.approx(6250)
    assert found.transfer == 0


def test_frames_of_added_machines_come_over_a_line_that_they_share() -> None:
    # 10 workers need 0.1 s a frame together, the line of 100 MB/s another 0.1 s: 5 frames/s, as above.
    found = estimate(WORK, Machines(5, 600.0), Machines(10, 100.0, bytes_per_second=100e6))
    assert found.with_burst == pytest.approx(1350)
    assert found.transfer == pytest.approx(625)  # 6250 frames of 10 MB at 100 MB/s


def test_a_slow_line_keeps_added_machines_from_helping_much() -> None:
    # 1000 workers, and a line for one frame in 10 s: 0.1 frames/s beside 5, from the start on.
    found = estimate(WORK, Machines(5, 0.0), Machines(1000, 0.0, bytes_per_second=1e6))
    assert found.with_burst == pytest.approx(10_000 / (5 + 1 / (0.001 + 10)))


def test_added_machines_that_come_too_late_change_nothing() -> None:
    found = estimate(WORK, Machines(5, 0.0), Machines(1000, 3600.0))
    assert (found.with_burst, found.burst_frames) == (pytest.approx(2000), 0)


def test_without_machines_of_its_own_a_site_needs_the_added_ones() -> None:
    found = estimate(WORK, Machines(0, 0.0), Machines(10, 50.0))
    assert math.isinf(found.here)
    assert found.with_burst == pytest.approx(1050)
    assert str(found) == "here never, with burst 18 min"


def test_the_sentence_says_what_one_decides_by() -> None:
    # 11,000 frames/h here after 10 min in the queue.
    work = Work(33_000, 3.6, 12e6)
    found = estimate(work, Machines(11, 600.0), Machines(32, 180.0, bytes_per_second=200e6))
    # Here 600 + 3 h = 3 h 10. Burst: 1 / (3.6 / 32 + 0.06) = 5.797 frames/s beside 3.056, so
    # t = (33,000 + 3.056 * 600 + 5.797 * 180) / 8.853 = 4052 s = 68 min, 22,446 frames, 1347 s = 22 min on the line.
    assert str(found) == "here 3 h 10 (queued), with burst 68 min incl. 22 min transfer"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"), (99, "99 s"), (100, "2 min"), (52 * 60, "52 min"), (11_400, "3 h 10"), (7500, "2 h 05"),
        (3600 * 53, "2 d 5 h"), (math.inf, "never"),
    ],
)  # fmt: skip
def test_durations_are_told_as_people_say_them(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
