"""Fair play on a scheduler that several clients share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from distributed import Client, LocalCluster, as_completed

from sfxlab.cluster.connect import connect_to
from sfxlab.cluster.profiles import AddressProfile
from sfxlab.cluster.site import SiteProfile
from sfxlab.errors import ClusterError


@pytest.fixture(scope="module")
def scheduler() -> Iterator[LocalCluster]:
    """A scheduler and one worker of two threads, as somebody else has started them."""
    with LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address="127.0.0.1:0") as cluster:
        yield cluster


def guest(cluster: LocalCluster, **values: object) -> Client:
    profile = AddressProfile.model_validate({"address": cluster.scheduler_address} | values)
    return connect_to(SiteProfile("shared", profile, {}))


def held_by(cluster: LocalCluster) -> int:
    """Tasks of all clients that the scheduler has not done."""
    return sum(task.state in ("processing", "queued", "no-worker") for task in list(cluster.scheduler.tasks.values()))


def test_a_proposal_keeps_to_its_share_however_many_clients_it_has(scheduler: LocalCluster) -> None:
    with (
        guest(scheduler, proposal="p1", tasks_in_flight=3) as one,
        guest(scheduler, proposal="p1", tasks_in_flight=3) as other,
        ThreadPoolExecutor(2) as pool,
    ):

        def work(client: Client) -> None:
            tasks = [client.submit(time.sleep, 0.2, pure=False) for _ in range(5)]
            client.gather([*tasks, *client.map(time.sleep, [0.1] * 4, pure=False)])

        working = [pool.submit(work, client) for client in (one, other)]
        held = []
        while not all(each.done() for each in working):
            held.append(held_by(scheduler))
            time.sleep(0.01)
        for each in working:
            each.result()
    assert max(held) == 3


def test_a_proposal_does_not_count_for_another(scheduler: LocalCluster) -> None:
    with guest(scheduler, proposal="p2", tasks_in_flight=1) as one, guest(scheduler, proposal="p3") as other:
        first = one.submit(time.sleep, 1.0, key="first")
        others = [other.submit(time.sleep, 0.0, key=f"other-{number}") for number in range(5)]
        other.gather(others)
        assert not first.done()


def test_a_share_is_given_back_by_tasks_that_fail_or_are_cancelled(scheduler: LocalCluster) -> None:
    with guest(scheduler, proposal="p4", tasks_in_flight=1) as client:
        failing = client.submit(divmod, 1, 0, key="failing")
        with pytest.raises(ZeroDivisionError):
            failing.result()
        client.cancel([client.submit(time.sleep, 0.2, key="cancelled")])
        assert client.submit(sum, [1, 2], key="last").result(timeout=10) == 3


def test_two_limits_for_one_proposal_are_refused(scheduler: LocalCluster) -> None:
    with (
        guest(scheduler, proposal="p5", tasks_in_flight=2),
        pytest.raises(ClusterError, match="another limit"),
    ):
        guest(scheduler, proposal="p5", tasks_in_flight=4)


def test_a_live_experiment_goes_first(scheduler: LocalCluster) -> None:
    with guest(scheduler) as usual, guest(scheduler, live=True) as live:
        waiting = [usual.submit(time.sleep, 0.1, key=f"usual-{number}") for number in range(20)]
        urgent = [live.submit(time.sleep, 0.0, key=f"urgent-{number}") for number in range(4)]
        for task in as_completed(urgent):
            task.result()
        assert sum(task.done() for task in waiting) < 10
        usual.gather(waiting)
