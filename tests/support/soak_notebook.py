"""Soak `citykit.run` in a real kernel: ``python -m tests.support.soak_notebook [--seed N]`` (three minutes).

10,000 nestings of tasks, callbacks, timers and threads, then 40 s of two interrupts at a time.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import tempfile
import time

import numpy as np

from tests.support.kernels import Kernel, kernel, plain

SETUP = """
import asyncio, citykit, os
import pandas as pd
NAME = {"server_settings": {"application_name": "soaked"}}
engine = await citykit.connect(connect_args=NAME)
await citykit.create_tables(engine, reset=True)
many = pd.DataFrame({"name": [str(i) for i in range(5000)], "population": 1})
"""

NESTINGS = """
import asyncio, contextvars, random, threading

chance, current = random.Random(SEED), contextvars.ContextVar("current")

async def trivial():
    return current.get()

async def sleeping():
    await asyncio.sleep(chance.uniform(0, 0.003))
    return current.get()

async def asking():
    frame = await citykit.read_frame(engine, "SELECT CAST(:value AS int) AS value", {"value": current.get()})
    return int(frame["value"][0])

async def nesting():
    return citykit.run(some())

def some():
    return chance.choices([trivial, sleeping, asking, nesting], [4, 4, 1, 1])[0]()

def begin(value):
    "Have citykit.run called in a random way, and return a future of what it returned."
    loop, done = asyncio.get_running_loop(), asyncio.get_running_loop().create_future()

    def work():
        current.set(value)
        try:
            result = citykit.run(some())
        except BaseException as error:
            result = error
        loop.call_soon_threadsafe(done.set_result, result)

    async def task(seconds):
        await asyncio.sleep(seconds)
        work()

    moment = loop.time() + 0.002
    way = chance.choice(["task", "late task", "soon", "threadsafe", "timer", "same timer", "thread", "loop"])
    if way == "task":
        done.task = asyncio.create_task(task(0))
    elif way == "late task":
        done.task = asyncio.create_task(task(0.002))
    elif way == "soon":
        loop.call_soon(work)
    elif way == "threadsafe":
        threading.Thread(target=loop.call_soon_threadsafe, args=[work]).start()
    elif way == "timer":
        loop.call_at(moment + chance.uniform(0, 0.002), work)
    elif way == "same timer":
        loop.call_at(moment, work)
    elif way == "thread":
        threading.Thread(target=work).start()
    else:
        threading.Thread(target=asyncio.run, args=[task(0)]).start()
    return done

async def nestings(count):
    wrong, begun = [], 0
    while begun < count:
        batch = range(begun, min(count, begun + chance.randint(1, 10)))
        results = await asyncio.gather(*[begin(value) for value in batch])
        wrong += [(value, repr(got)) for value, got in zip(batch, results) if got != value]
        begun = batch.stop
    return [begun, wrong]
"""

INTERRUPTED = [
    "await citykit.read_frame(engine, 'SELECT i, repeat(chr(120), 50) FROM generate_series(1, 200000) AS i')",
    "citykit.run(citykit.read_frame(engine, 'SELECT i FROM generate_series(1, 400000) AS i'))",
    "citykit.run(citykit.read_frame(engine, 'SELECT pg_sleep(0.5)'))",
    "await citykit.read_frame(engine, 'SELECT pg_sleep(0.5)')",
    "await citykit.load_cities(engine, many, on_conflict='update', progress=False)",
    "citykit.run(citykit.load_cities(engine, many, on_conflict='update', progress=False))",
    "await citykit.find_cities(engine, '1')\ncitykit.run(citykit.biggest_cities(engine, 5000))",
    "for _ in range(20):\n    citykit.run(citykit.biggest_cities(engine))",
    "for _ in range(20):\n"
    "    asyncio.get_running_loop().call_soon(lambda: citykit.run(citykit.biggest_cities(engine, 5000)))\n"
    "await asyncio.sleep(0.2)",
    "async def read():\n    return citykit.run(citykit.biggest_cities(engine, 5000))\n"
    "await asyncio.gather(*[asyncio.create_task(read()) for _ in range(20)])",
]

SESSIONS = """
import asyncio
asked = '''SELECT count(*) AS n FROM pg_stat_activity WHERE application_name = 'soaked' AND state <> 'idle'
           AND pid <> pg_backend_pid()'''
for _ in range(50):  # what was interrupted last may be ending
    busy = int((await citykit.read_frame(engine, asked))["n"][0])
    if not busy:
        break
    await asyncio.sleep(0.1)
print(os.getpid(), busy)
"""


def nest(jupyter: Kernel, seed: int, count: int) -> None:
    """Nest `count` calls of `citykit.run` at random, and look at every result."""
    jupyter.run(f"SEED = {seed}\n{NESTINGS}")
    shown = jupyter.shown(f"print(await nestings({count}))")
    assert shown == f"[{count}, []]\n", f"seed {seed}: {shown}"
    assert jupyter.shown("citykit.run(trivial()) if current.set(1) else None") == "1\n"


def interrupt_twice(jupyter: Kernel, seed: int, seconds: float) -> int:
    """Interrupt cells twice within 50 ms, again and again; each next cell has to work."""
    chance, rounds = np.random.default_rng(seed), 0
    pid = int(jupyter.shown("print(os.getpid())"))
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        source = str(chance.choice(INTERRUPTED))
        # With stop_on_error, ipykernel 7 skips all cells after one that failed until it has sent itself a
        # message; if the second interrupt comes just before that, it skips every later cell.
        cell = jupyter.send(source, stop_on_error=False)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(pid, signal.SIGINT)
        time.sleep(chance.uniform(0, 0.05))
        os.kill(pid, signal.SIGINT)
        jupyter.wait(cell)
        following = jupyter.send("print(os.getpid(), citykit.run(asyncio.sleep(0, 'works')))")
        shown = plain(jupyter.wait(following))
        said = f"seed {seed}, round {rounds}, {source}: {shown}"
        assert shown == f"{pid} works\n", f"{said} ({jupyter.status(following)})"
        rounds += 1
    shown = jupyter.shown(SESSIONS)
    assert shown == f"{pid} 0\n", f"seed {seed}: {shown}"
    return rounds


def main() -> None:
    """Run both, longer than the tests do."""
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.support.soak_notebook")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--nestings", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=40)
    given = parser.parse_args()
    print(f"--seed {given.seed}", flush=True)  # noqa: T201
    with tempfile.TemporaryDirectory() as home, kernel(CITYKIT_HOME=home, PYTHONUNBUFFERED="1") as jupyter:
        assert jupyter.shown(SETUP) == ""
        nest(jupyter, given.seed, given.nestings)
        print(f"{given.nestings} nestings: every result is right")  # noqa: T201
        rounds = interrupt_twice(jupyter, given.seed, given.seconds)
        print(f"{rounds} cells interrupted twice: every next cell worked")  # noqa: T201


if __name__ == "__main__":
    main()
