"""The queue: whatever clients and worker do, no job is lost, none is made twice, and clients take turns."""

import asyncio
import itertools
import tempfile
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.core.errors import Failure, InputError
from mlx_sd.request import Request
from mlx_sd.studio.events import Events
from mlx_sd.studio.job import Origin, State
from mlx_sd.studio.job_queue import JobQueue, QueueFull
from mlx_sd.studio.journal import Journal


def queue_in(folder: Path, bound: int = 32) -> JobQueue:
    return JobQueue(Journal(folder / "journal.sqlite"), Events(), bound)


@pytest.fixture
def queue(tmp_path):
    return queue_in(tmp_path)


def requests(count: int, seed: int = 0) -> list[Request]:
    return [Request(prompt="x", seed=seed + i) for i in range(count)]


def page(client: str = "a") -> Origin:
    return Origin("page", client)


def taken(queue: JobQueue) -> list[tuple[str, int]]:
    """Takes and ends all jobs; returns their clients and seeds in order."""
    order = []
    while (job := queue.next(0)) is not None:
        order.append((job.origin.client, job.request.seed))
        queue.done(job, b"png")
    return order


def test_jobs_of_one_client_are_first_in_first_out(queue):
    queue.submit(requests(5), page(), keep=False)
    assert taken(queue) == [("a", seed) for seed in range(5)]


def test_clients_take_turns(queue):
    queue.submit(requests(4), page("a"), keep=False)
    queue.submit(requests(2), page("b"), keep=False)
    queue.submit(requests(1), page("c"), keep=False)
    assert [client for client, _ in taken(queue)] == ["a", "b", "c", "a", "b", "a", "a"]


def test_a_client_that_comes_later_waits_for_no_more_than_one_job_of_each_other(queue):
    queue.submit(requests(20), page("a"), keep=False)
    for _ in range(5):
        queue.done(queue.next(0))
    queue.submit(requests(3), page("b"), keep=False)
    assert [client for client, _ in taken(queue)][:6] == ["b", "a", "b", "a", "b", "a"]


def test_a_client_gains_nothing_by_asking_one_by_one(queue):
    queue.submit(requests(3), page("patient"), keep=False)
    for seed in range(6):
        queue.submit(requests(1, seed), page("hasty"), keep=False)
    assert [client for client, _ in taken(queue)] == ["patient", "hasty"] * 3 + ["hasty"] * 3


def test_a_full_queue_takes_all_or_none_and_says_when_there_is_room(tmp_path):
    queue = queue_in(tmp_path, bound=4)
    queue.submit(requests(3), page(), keep=False)
    with pytest.raises(QueueFull, match="the queue is full: 3 of 4") as error:
        queue.submit(requests(2), page(), keep=False)
    assert error.value.retry_after >= 1 and len(queue.listing()) == 3
    queue.submit(requests(1), page("b"), keep=False)
    with pytest.raises(InputError, match="more than the queue takes at once"):
        queue.submit(requests(5), page(), keep=False)


def test_the_running_job_takes_no_place_in_the_queue(tmp_path):
    queue = queue_in(tmp_path, bound=1)
    queue.submit(requests(1), page(), keep=False)
    assert queue.next(0) is not None
    queue.submit(requests(1), page(), keep=False)


def test_a_job_is_in_the_journal_before_it_counts_as_accepted(tmp_path, queue, monkeypatch):
    def full(entries):
        raise Failure("the journal cannot be written: no space")

    monkeypatch.setattr(queue._journal, "add", full)
    with pytest.raises(Failure):
        queue.submit(requests(2), page(), keep=False)
    assert queue.listing() == [] and queue.next(0) is None


def test_a_request_without_a_seed_is_no_job(queue):
    with pytest.raises(InputError, match="seed"):
        queue.submit([Request(prompt="x")], page(), keep=False)


def test_a_waiting_job_is_cancelled_at_once_and_a_running_one_when_the_worker_sees_it(queue):
    first, second = queue.submit(requests(2), page(), keep=False)
    running = queue.next(0)
    assert queue.cancel(second.id) and second.state is State.CANCELLED
    assert queue.cancel(first.id) and running.stop.is_set() and first.state is State.RUNNING
    queue.cancelled(running)
    assert first.state is State.CANCELLED and not queue.cancel(first.id) and queue.next(0) is None


def test_a_group_is_cancelled_together(queue):
    jobs = queue.submit(requests(3), page(), keep=False)
    other = queue.submit(requests(1), page(), keep=False)
    queue.next(0)
    assert queue.cancel_group(jobs[0].group) == 3
    assert jobs[0].stop.is_set() and [job.id for job in other] == queue.order


def test_waiting_jobs_are_put_into_another_order(queue):
    jobs = queue.submit(requests(4), page(), keep=False)
    ids = [job.id for job in jobs]
    assert queue.reorder([ids[2], "unknown", ids[0], ids[2]]) == [ids[2], ids[0], ids[1], ids[3]]
    assert [seed for _, seed in taken(queue)] == [2, 0, 1, 3]


def test_a_job_that_ended_is_forgotten_when_it_is_removed(tmp_path, queue):
    (job,) = queue.submit(requests(1), page(), keep=False)
    queue.done(queue.next(0), b"png")
    assert queue.remove(job.id) and queue.get(job.id) is None and not queue.remove(job.id)
    assert queue._journal.entries() == []


def test_the_picture_of_a_job_is_taken_once(queue):
    (job,) = queue.submit(requests(1), page(), keep=False)
    queue.done(queue.next(0), b"png")
    assert (queue.take_result(job), queue.take_result(job)) == (b"png", None)


def test_clients_wait_for_the_end_of_a_job(queue):
    async def run():
        first, second, third = queue.submit(requests(3), page(), keep=False)
        waiting = [asyncio.ensure_future(queue.finished(job.id)) for job in (first, second, third, first)]
        await asyncio.sleep(0)
        queue.done(await asyncio.to_thread(queue.next, 1), b"png")
        await asyncio.to_thread(queue.failed, queue.next(0), "it broke", "steps")
        queue.cancel(third.id)
        return [(job.state.value, job.error) for job in await asyncio.gather(*waiting)]

    assert asyncio.run(run()) == [("done", None), ("failed", "it broke"), ("cancelled", None), ("done", None)]


def test_waiting_for_an_unknown_job_is_an_error(queue):
    with pytest.raises(InputError, match="no job"):
        asyncio.run(queue.finished("0" * 16))


def test_after_a_restart_jobs_of_the_page_wait_again_and_those_of_programs_have_failed(tmp_path):
    before = queue_in(tmp_path)
    mine = before.submit(requests(3), page(), keep=True)
    theirs = before.submit(requests(2), Origin("api", "b"), keep=False)
    finished, running = before.next(0), before.next(0)
    before.done(finished, target=finished.target)
    assert running.origin.kind == "api"
    before._journal.close()  # and no other farewell

    after = queue_in(tmp_path)
    assert after.restore() == 2
    assert [job.request.seed for job in (after.next(0), after.next(0))] == [1, 2] and after.next(0) is None
    assert [after.get(job.id).state for job in theirs] == [State.FAILED] * 2
    assert "was gone" in after.get(theirs[0].id).error
    assert after.get(mine[0].id).state is State.DONE and after.get(mine[1].id).request == mine[1].request


def test_the_order_survives_a_restart(tmp_path):
    before = queue_in(tmp_path)
    jobs = before.submit(requests(4), page(), keep=True)
    order = before.reorder([jobs[i].id for i in (3, 1, 0, 2)])
    before.put_back(before.next(0))
    before._journal.close()
    after = queue_in(tmp_path)
    after.restore()
    assert after.order == order


def test_a_job_that_this_version_cannot_read_has_failed_after_a_restart(tmp_path):
    before = queue_in(tmp_path)
    (job,) = before.submit(requests(1), page(), keep=True)
    before._journal._write("UPDATE jobs SET request=? WHERE id=?", [('{"of_the_future": 1}', job.id)])
    before._journal.close()
    after = queue_in(tmp_path)
    assert after.restore() == 0 and "of_the_future" in after.get(job.id).error
    assert after._journal.entries()[0].state == "failed"


def test_at_the_end_programs_are_told_and_jobs_of_the_page_stay(tmp_path, queue):
    (mine,), (theirs,) = (queue.submit(requests(1), Origin(kind, kind), keep=True) for kind in ("page", "api"))
    queue.close()
    assert theirs.state is State.FAILED and "stopped" in theirs.error
    assert queue.order == [mine.id] and queue.next(0) is None
    with pytest.raises(Failure, match="being stopped"):
        queue.submit(requests(1), page(), keep=False)


_ACTIONS = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from("abc"), st.integers(1, 4), st.booleans()),
    st.tuples(st.sampled_from(["take", "done", "failed", "stop", "restart"])),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("reorder"), st.lists(st.integers(0, 30), max_size=6)),
)


@given(st.lists(_ACTIONS, max_size=40))
def test_whatever_happens_every_job_ends_once_and_none_is_lost(actions):
    """Any interleaving of clients, worker and restarts; the worker ends what it has taken."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        queue, running, accepted, ends = queue_in(folder, 8), None, {}, []

        def end(how):
            nonlocal running
            if running is not None:
                ends.append(running.id)
                queue.cancelled(running) if running.stop.is_set() else how(running)
                running = None

        for name, *values in actions:
            ids = list(accepted)
            if name == "submit":
                client, count, is_page = values
                kind = "page" if is_page else "api"
                try:
                    jobs = queue.submit(requests(count), Origin(kind, client), keep=is_page)
                    accepted |= {job.id: kind for job in jobs}
                except QueueFull:
                    assert len(queue.order) + count > 8
            elif name == "take":
                if running is None:
                    running = queue.next(0)
                    assert running is None or running.id not in ends
            elif name == "done":
                end(queue.done)
            elif name == "failed":
                end(partial(queue.failed, error="it broke"))
            elif name == "cancel" and values[0] < len(ids):
                waiting = ids[values[0]] in queue.order
                if queue.cancel(ids[values[0]]) and waiting:
                    ends.append(ids[values[0]])
            elif name == "reorder":
                before = sorted(queue.order)
                assert sorted(queue.reorder([ids[i] for i in values[0] if i < len(ids)])) == before
            elif name in ("stop", "restart"):
                if name == "stop":
                    queue.close()
                    if running is not None:
                        queue.put_back(running)
                queue._journal.close()
                queue, running = queue_in(folder, 8), None
                queue.restore()
                gone = [id for id, kind in accepted.items() if queue.get(id).state.is_end and id not in ends]
                assert all(accepted[id] == "api" or queue.get(id).state is State.CANCELLED for id in gone)
                ends += gone
        end(queue.done)
        while (job := queue.next(0)) is not None:
            assert job.id not in ends
            ends.append(job.id)
            queue.done(job, b"png")
        assert sorted(ends) == sorted(accepted)
        assert all(queue.get(id).state.is_end for id in accepted)
        journalled = {entry.id: entry.state for entry in queue._journal.entries()}
        assert journalled == {id: queue.get(id).state.value for id in accepted}
        queue._journal.close()


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 5)), min_size=1, max_size=10))
def test_while_two_clients_wait_neither_gets_two_turns_more(submissions):
    with tempfile.TemporaryDirectory() as name:
        queue = queue_in(Path(name), 100)
        for client, count in submissions:
            queue.submit(requests(count), page(client), keep=False)
        remaining = {client: sum(n for c, n in submissions if c == client) for client, _ in submissions}
        served = dict.fromkeys(remaining, 0)
        for client, _ in taken(queue):
            waiting = [c for c, count in remaining.items() if count]
            served[client] += 1
            remaining[client] -= 1
            assert all(abs(served[a] - served[b]) <= 1 for a, b in itertools.combinations(waiting, 2))
        queue._journal.close()


def test_a_disk_that_is_full_stops_no_job_that_was_accepted(tmp_path, queue, monkeypatch):
    (job,) = queue.submit(requests(1), page(), keep=True)

    def full(*arguments, **values):
        raise Failure("the journal cannot be written: no space")

    with monkeypatch.context() as patch, pytest.warns(UserWarning, match="no space"):
        patch.setattr(queue._journal, "update", full)
        queue.done(queue.next(0), target=job.target)
    assert job.state is State.DONE
    queue._journal.close()
    after = queue_in(tmp_path)
    assert after.restore() == 1 and after.next(0).target == job.target  # whose picture is then found


def test_a_client_that_asks_again_after_each_of_its_pictures_does_not_get_ahead(queue):
    queue.submit(requests(4), page("patient"), keep=False)
    queue.submit(requests(1), page("hasty"), keep=False)
    order = []
    while (job := queue.next(0)) is not None:
        order.append(job.origin.client)
        if job.origin.client == "hasty" and order.count("hasty") < 4:
            queue.submit(requests(1), page("hasty"), keep=False)
        queue.done(job, b"png")
    assert order == ["patient", "hasty"] * 4


def test_a_running_job_of_a_program_ends_with_the_server_and_whoever_waits_is_told(queue):
    async def run():
        (job,) = queue.submit(requests(1), Origin("api", "b"), keep=False)
        running = queue.next(0)
        waiting = asyncio.ensure_future(queue.finished(job.id))
        await asyncio.sleep(0)
        queue.close()
        await asyncio.to_thread(queue.put_back, running)
        return (await asyncio.wait_for(waiting, 5)).state

    assert asyncio.run(run()) is State.FAILED
