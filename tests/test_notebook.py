from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import Any

import pytest

import citykit


def test_run_outside_of_a_loop_keeps_one_loop_per_thread() -> None:
    engine = citykit.run(citykit.connect())
    citykit.run(citykit.create_tables(engine, reset=True))
    assert citykit.run(citykit.add_city(engine, "a", 1)).name == "a"
    assert citykit.run(citykit.biggest_cities(engine))["name"].tolist() == ["a"]
    citykit.run(engine.dispose())

    async def loop() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    loops = [citykit.run(loop())]
    thread = threading.Thread(target=lambda: loops.extend([citykit.run(loop()), citykit.run(loop())]))
    thread.start()
    thread.join()
    assert loops[1] is loops[2]
    assert loops[0] is not loops[1]
    assert loops[1].is_closed()  # with its thread
    assert not loops[0].is_closed()


def test_run_takes_any_awaitable_and_passes_errors_on() -> None:
    class Awaitable:
        def __await__(self) -> Any:
            return asyncio.sleep(0, "result").__await__()

    assert citykit.run(Awaitable()) == "result"

    async def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        citykit.run(fail())
    nothing: Any = None
    with pytest.raises(TypeError, match="an awaitable is needed"):
        citykit.run(nothing)


def test_run_in_a_forked_child_has_a_loop_of_its_own() -> None:
    script = """
import asyncio, citykit, os, sys, time
async def main():
    engine = await citykit.connect()
    frame = await citykit.biggest_cities(engine, 1)
    await engine.dispose()
    return frame.columns[0]
async def create():
    engine = await citykit.connect()
    await citykit.create_tables(engine)
    await engine.dispose()
citykit.run(create())
child = os.fork()
print(citykit.run(main()), flush=True)
if child:
    assert os.waitpid(child, 0)[1] == 0
    started = time.monotonic()
    citykit.run(asyncio.wait_for(asyncio.to_thread(time.sleep, 0.01), 10))
    assert time.monotonic() - started < 10  # what the child closed of its copy did not deafen this loop
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "name\nname\n"


NESTED = """
import asyncio, citykit
async def main():
    {before}
    return citykit.run(asyncio.sleep(0, "nested"))
print({run}(main()))
"""


def nested(before: str = "pass", run: str = "asyncio.run") -> subprocess.CompletedProcess[str]:
    script = NESTED.format(before=before, run=run)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_run_inside_of_a_running_loop() -> None:
    done = nested()
    assert done.stdout == "nested\n", done.stderr
    assert nested(run="citykit.run").stdout == "nested\n"


def test_run_costs_less_than_a_millisecond_over_await() -> None:
    script = """
import asyncio, citykit, time
async def main():
    started = time.perf_counter()
    for _ in range(200):
        await asyncio.sleep(0)
    awaited = time.perf_counter()
    for _ in range(200):
        citykit.run(asyncio.sleep(0))
    print((time.perf_counter() - awaited - (awaited - started)) / 200 < 0.001)
citykit.run(asyncio.sleep(0))
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_overlapping_runs_inside_of_a_loop_return_last_in_first_out() -> None:
    script = """
import asyncio, citykit
ended = []
async def wait(name, seconds):
    citykit.run(asyncio.sleep(seconds))
    ended.append(name)
async def main():
    citykit.run(asyncio.sleep(0))
    await asyncio.gather(wait("short", 0.01), wait("long", 0.1))
    print(*ended)
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "long short\n"


def test_run_refuses_a_process_that_the_older_nest_asyncio_has_patched() -> None:
    done = nested(before="asyncio._nest_patched = True")  # what it leaves behind
    assert "WrongLoopError" in done.stderr
    assert "Restart the kernel" in done.stderr
    assert "never awaited" not in done.stderr


def test_run_refuses_a_loop_that_cannot_be_entered_again_before_anything_is_patched() -> None:
    script = """
import asyncio, citykit
class Foreign(asyncio.AbstractEventLoop):
    is_running = lambda self: True
asyncio._set_running_loop(Foreign())
task = asyncio.Task
try:
    citykit.run(citykit.connect())
except citykit.WrongLoopError as error:
    print(error)
assert asyncio.Task is task and not hasattr(asyncio, "_nest_patched")
asyncio._set_running_loop(None)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Write await instead" in done.stdout
    assert done.stderr == ""


def test_an_interrupted_run_cancels_what_it_waited_for() -> None:
    script = """
import asyncio, citykit, os, signal
async def wait():
    try:
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled")
        raise
try:
    citykit.run(wait())
except KeyboardInterrupt:
    print("interrupted")
print(citykit.run(asyncio.sleep(0, "works")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cancelled", "interrupted", "works"]
    assert done.stderr == ""


def test_an_interrupt_before_the_first_step_leaves_nothing_that_was_never_awaited() -> None:
    script = """
import asyncio, citykit, os, signal
async def loop():
    return asyncio.get_running_loop()
citykit.run(loop()).call_soon(os.kill, os.getpid(), signal.SIGINT)
try:
    citykit.run(citykit.connect())
except KeyboardInterrupt:
    print("interrupted")
print(citykit.run(asyncio.sleep(0, "works")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["interrupted", "works"]
    assert done.stderr == ""


@pytest.mark.parametrize("inside", ["asyncio.run(cell())", "cells()"], ids=["in a running loop", "outside"])
def test_an_interrupt_at_any_moment_leaves_everything_working(inside: str) -> None:
    script = """
import asyncio, citykit, os, random, signal, sys, threading, time
import pandas as pd
from sqlalchemy import text
many = pd.DataFrame({"name": [str(i) for i in range(1000)], "population": 1})
locked, enough = threading.Event(), threading.Event()
async def hold_loads_up():
    engine = await citykit.connect()
    await citykit.create_tables(engine, reset=True)
    async with engine.connect() as connection:
        await connection.execute(text("INSERT INTO cities (name, population) VALUES ('0', 1)"))
        locked.set()
        await asyncio.to_thread(enough.wait)
    await engine.dispose()
def interrupt_soon(moment):
    time.sleep(moment)
    os.kill(os.getpid(), signal.SIGINT)
def cells():
    engine, chance = citykit.run(citykit.connect()), random.Random(1)
    citykit.run(citykit.load_cities(engine, many[:0]))  # imports what it needs
    for _ in range(50):
        soon = threading.Thread(target=interrupt_soon, args=[chance.uniform(0, 0.02)])
        try:
            soon.start()
            citykit.run(citykit.load_cities(engine, many, on_conflict="update"))
        except KeyboardInterrupt:
            soon.join()
    print(len(citykit.run(citykit.biggest_cities(engine))))
    citykit.run(engine.dispose())
async def cell():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as ipykernel does for a cell without await
    cells()
holder = threading.Thread(target=asyncio.run, args=[hold_loads_up()])
holder.start()
locked.wait()
try:
    exec(sys.argv[1])
finally:
    enough.set()
    holder.join()
"""
    # One that comes after the coroutine was made and before `run` has it leaves it behind, as everywhere.
    never_awaited = "ignore:coroutine 'load_cities' was never awaited:RuntimeWarning"
    command = [sys.executable, "-W", never_awaited, "-c", script, inside]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)


def test_a_second_interrupt_does_not_wait() -> None:
    script = """
import asyncio, citykit, os, signal
async def stubborn():
    for _ in range(2):
        asyncio.get_running_loop().call_later(0.1, os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("cancelled")
try:
    citykit.run(stubborn())
except KeyboardInterrupt:
    print("interrupted")
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-uc", script], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.split() == ["cancelled", "interrupted"]
