"""Events: all who listen get all of them, in order, from any thread, and nobody waits for a slow one."""

import asyncio
import threading

from mlx_sd.studio.jobs import events
from mlx_sd.studio.jobs.events import Events


def test_every_listener_gets_every_event_in_order():
    async def run():
        center = Events()
        first, second = center.subscribe(), center.subscribe()
        for number in range(20):
            center.publish({"type": "job", "number": number})
        first.close()
        second.close()
        numbers = []
        for listener in (first, second):
            numbers.append([event["number"] async for event in listener])
        return numbers

    assert asyncio.run(run()) == [[*range(20)]] * 2


def test_events_come_from_any_thread():
    async def run():
        center = Events()
        listener = center.subscribe()
        threads = [threading.Thread(target=center.publish, args=({"type": "job", "number": n},)) for n in range(8)]
        for thread in threads:
            thread.start()
        received = {(await anext(listener))["number"] for _ in threads}
        listener.close()
        return received

    assert asyncio.run(run()) == {*range(8)}


def test_a_listener_that_does_not_read_is_cut_off_and_holds_nothing():
    async def run():
        center = Events()
        listener = center.subscribe()
        for number in range(events._ROOM + 1):
            center.publish({"type": "job", "number": number})
        await asyncio.sleep(0)
        return [event async for event in listener], center.listeners

    assert asyncio.run(run()) == ([], 0)


def test_of_previews_only_the_newest_waits():
    async def run():
        center = Events()
        listener = center.subscribe()
        for number in range(3 * events._ROOM):
            center.publish({"type": "preview", "number": number})
        center.publish({"type": "job"})
        listener.close()
        return [event async for event in listener]

    assert asyncio.run(run()) == [{"type": "preview", "number": 3 * events._ROOM - 1}, {"type": "job"}]


def test_closing_ends_all_who_listen_and_those_to_come():
    async def run():
        center = Events()
        early = center.subscribe()
        center.close()
        late = center.subscribe()
        return [event async for event in early], [event async for event in late], center.listeners

    assert asyncio.run(run()) == ([], [], 0)


def test_a_listener_whose_loop_is_gone_is_forgotten():
    center = Events()

    async def leave():
        center.subscribe()

    asyncio.run(leave())
    assert center.listeners == 1
    center.publish({"type": "job"})
    assert center.listeners == 0
