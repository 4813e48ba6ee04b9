"""What holds under load and under kills: run once in full by `make proof`, a tenth of it in CI."""

import asyncio
import json
import os
import random
import statistics
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from mlx_sd import metadata
from mlx_sd.cli import generate
from tests.support.studio import PAGE, SMALL, Process, end, start, studio

pytestmark = pytest.mark.proof
WORDS = ("a red tent", "a blue house", "white snow", "a moon at night", "yellow sand", "a boat on blue water")


def values(number: int, steps: int = 2) -> dict:
    """The settings of one of many small pictures, no two alike."""
    return {
        "prompt": WORDS[number % len(WORDS)],
        "seed": number,
        "steps": steps + number % 2,
        "width": 64,
        "height": (64, 96)[number % 3 == 0],
        "sampler": ("euler", "dpmpp_2m")[number % 5 == 0],
    }


def command_lines_pictures(folder: Path, requests: list[dict]) -> list[bytes]:
    """Makes the pictures by the command line, and returns the bytes of their files."""
    folder.mkdir()
    lines = [json.dumps(request | {"output": f"{i}.png"}) for i, request in enumerate(requests)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    arguments = ["--prompts", str(folder / "prompts.jsonl"), "--output", f"{folder}/", "--quiet"]
    assert generate.main(arguments) == 0
    return [(folder / f"{i}.png").read_bytes() for i in range(len(requests))]


def memory(server: Process) -> tuple[float, int]:
    """Returns the resident megabytes and the open files of a server."""
    process = Path(f"/proc/{server.process.pid}")
    pages = int((process / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, len(list((process / "fd").iterdir()))


def submit(client: httpx.Client, name: str, request: dict) -> str:
    answer = client.post("/api/jobs", json={"request": request, "client": name})
    assert answer.status_code == 202, answer.text
    (job,) = answer.json()["jobs"]
    return job["id"]


def all_jobs(client: httpx.Client) -> dict[str, dict]:
    return {job["id"]: job for job in client.get("/api/jobs").json()["jobs"]}


def listen(address: str, states: list[tuple[str, str]], ready: threading.Event) -> None:
    """Collects the states of jobs from the stream of events, until the server ends it."""
    with httpx.Client(base_url=address, timeout=None) as client, client.stream("GET", "/api/events") as answer:
        for line in answer.iter_lines():
            ready.set()
            if line.startswith("data: ") and (event := json.loads(line[6:]))["type"] == "job":
                states.append((event["job"]["id"], event["job"]["state"]))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc")
def test_hundreds_of_requests_of_twenty_clients_get_the_command_lines_pictures(tmp_path, proof):
    clients, count = 20, max(proof.count(300), 20)
    requests = [values(number) for number in range(count)]
    expected = command_lines_pictures(tmp_path / "own", requests)
    server = start(tmp_path / "studio", "--queue", "400")
    states: list[tuple[str, str]] = []
    ready = threading.Event()
    listener = threading.Thread(target=listen, args=(server.address, states, ready))
    listener.start()
    assert ready.wait(60)
    with server.client as client:
        blocking = submit(client, "first", SMALL | {"steps": 1000, "seed": 9})

        def ask(number: int) -> list[str]:
            """Sends the requests of one client, one after the other."""
            with server.client as own:
                return [submit(own, f"client {number}", request) for request in requests[number::clients]]

        with ThreadPoolExecutor(clients) as pool:
            asked = list(pool.map(ask, range(clients)))
        client.delete(f"/api/jobs/{blocking}")
        ids = {id: number for number, client_ids in enumerate(asked) for id in client_ids}
        early: tuple[float, int] | None = None
        limit = time.monotonic() + 60 + 10 * count
        while True:
            ended = {id for id, state in states if state in ("done", "failed", "cancelled")}
            if early is None and len(ended & ids.keys()) >= count // 3:
                early = memory(server)
            if ids.keys() <= ended:
                break
            assert time.monotonic() < limit, len(ended)
            time.sleep(0.2)
        late = memory(server)
    files = sorted((tmp_path / "studio").glob("*.png"))
    contents = [file.read_bytes() for file in files]
    assert sorted(contents) == sorted(expected)  # none lost, none twice, every byte the command line's
    assert [sum(state == "done" for i, state in states if i == id) for id in ids] == [1] * count
    order = [ids[id] for id in dict.fromkeys(id for id, state in states if state == "running") if id in ids]
    assert len(order) == count
    remaining = {number: len(asked[number]) for number in range(clients)}
    served = dict.fromkeys(remaining, 0)
    for number in order:
        waiting = [other for other, left in remaining.items() if left]
        served[number] += 1
        remaining[number] -= 1
        counts = [served[other] for other in waiting]
        assert max(counts) - min(counts) <= 1
    assert early is not None
    growth, descriptors = late[0] - early[0], late[1] - early[1]
    assert growth < 40 and descriptors <= 2
    code, errors = end(server, 15)
    listener.join(10)
    assert (code, errors) == (0, "")
    proof.record(
        requests=count,
        clients=clients,
        pictures=len(contents),
        megabytes_after_a_third=round(early[0], 1),
        megabytes_at_the_end=round(late[0], 1),
        open_files=[early[1], late[1]],
    )


def test_killed_at_any_moment_every_job_of_the_page_is_made_once(tmp_path, proof):
    kills, count = proof.count(20), max(proof.count(200), 10)
    requests = [values(number, steps=1) for number in range(count)]
    expected = command_lines_pictures(tmp_path / "own", requests)
    folder, rng = tmp_path / "studio", random.Random(5)
    server = start(folder, "--queue", "400")
    with server.client as client:
        ids = [submit(client, f"client {number % 3}", request) for number, request in enumerate(requests)]
        program = client.post("/api/jobs", json={"request": SMALL, "keep": True}).json()["jobs"][0]["id"]
    cut_short = 0
    for _ in range(kills):
        time.sleep(rng.uniform(0, 1.0))
        server.process.kill()
        server.process.communicate()
        present = {file.name for file in folder.glob("*.png")}
        cut_short += len(present) < count
        for file in folder.glob("*.png"):
            assert metadata.is_whole(file), file
        server = start(folder, "--queue", "400")
        limit = time.monotonic() + 120
        while cut_short and len([*folder.glob("*.png")]) == len(present) < count:  # each start gets on
            assert time.monotonic() < limit
            time.sleep(0.05)
    with server.client as client:
        limit = time.monotonic() + 60 + 10 * count
        while any(job["state"] in ("queued", "running") for job in all_jobs(client).values()):
            assert time.monotonic() < limit
            time.sleep(0.1)
        lost = client.get(f"/api/jobs/{program}").json()["job"]
    assert end(server, 15)[0] == 0
    files = sorted(folder.glob("*.png"))
    contents = sorted(file.read_bytes() for file in files if file.name != lost["target"])
    assert contents == sorted(expected)
    assert lost["state"] in ("failed", "done")
    assert not [file.name for file in folder.iterdir() if file.name.startswith(".") and file.name != ".studio"]
    proof.record(
        kills=kills, while_jobs_waited=cut_short, jobs=count, pictures=len(contents), program=lost["state"], of=len(ids)
    )


def test_clients_that_go_leave_the_worker_idle_within_an_evaluation(tmp_path, proof):
    """Jobs are cancelled in the middle; counted are the evaluations that a job still runs, and the time."""
    overshoots, seconds = [], []
    with studio(tmp_path) as server:
        for number in range(proof.count(50)):
            (job,) = server.submit(SMALL | {"steps": 900}, PAGE, keep=False)
            while job.evaluation < 2 + number % 5:
                time.sleep(0.0005)
            seen, clock = job.evaluation, time.perf_counter()
            server.queue.cancel(job.id)
            while server.queue.running is not None:
                time.sleep(0.0005)
            seconds.append(time.perf_counter() - clock)
            overshoots.append(job.evaluation - seen)
        assert server.worker.model == "tiny"
    assert max(overshoots) <= 2  # the one in progress, and one that began before the flag was set
    proof.record(cancelled=len(seconds), most_evaluations=max(overshoots), slowest_seconds=round(max(seconds), 4))


def test_previews_cost_at_most_a_twentieth_of_the_evaluations(tmp_path, proof):
    shares, shown = [], 0

    async def watch(server, seed):
        events = server.events.subscribe()
        (job,) = server.submit({"prompt": "a red tent", "steps": 25, "seed": seed}, PAGE, keep=False)
        await server.queue.finished(job.id)
        events.close()
        return [event async for event in events if event["type"] == "preview"]

    with studio(tmp_path) as server:
        for seed in range(max(proof.count(20), 2)):
            before = server.worker.call(lambda maker: (maker.previews.spent, maker.evaluated)).result(60)
            shown += len(asyncio.run(watch(server, seed)))
            after = server.worker.call(lambda maker: (maker.previews.spent, maker.evaluated)).result(60)
            shares.append((after[0] - before[0]) / (after[1] - before[1]))
    assert shown and statistics.mean(shares) <= 0.05
    proof.record(
        pictures=len(shares), previews=shown, mean_share=round(statistics.mean(shares), 4), most=round(max(shares), 4)
    )
