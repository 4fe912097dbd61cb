from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

import citykit
from tests.support.cancelling import Watch, plain_connection


@pytest.mark.server
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


@pytest.mark.server
def test_run_in_a_forked_child_has_a_loop_of_its_own() -> None:
    script = """
import asyncio, citykit, os, time
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
print(citykit.run(main()) + "\\n", end="", flush=True)  # in one write: the other process prints, too
if child:
    assert os.waitpid(child, 0)[1] == 0
    citykit.run(asyncio.to_thread(time.sleep, 0.01))
    print("heard")  # what the child closed of its copy did not deafen this loop
"""
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "name\nname\nheard\n"


def output(script: str, *args: str) -> str:
    """Run a script that must not fail nor warn, and return what it prints."""
    command = [sys.executable, "-c", script, *args]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (done.stderr, done.returncode) == ("", 0)
    return done.stdout


NESTED = """
import asyncio, citykit
async def main():
    return citykit.run(asyncio.sleep(0, "nested"))
print({run}(main()))
"""


@pytest.mark.parametrize("run", ["asyncio.run", "citykit.run"])
def test_run_inside_of_a_running_loop(run: str) -> None:
    assert output(NESTED.format(run=run)) == "nested\n"


@pytest.mark.parametrize(
    "begin",
    [
        "[asyncio.create_task(late(i)) for i in range(3)]",
        "[loop.call_soon(wait, i) for i in range(3)]",
        "[loop.call_at(moment, wait, i) for i in range(3)]",
        "[loop.call_soon_threadsafe(wait, i) for i in range(3)]",
        "[threading.Thread(target=loop.call_soon_threadsafe, args=[wait, i]).start() for i in range(3)]",
    ],
    ids=["tasks", "call_soon", "timers of one moment", "call_soon_threadsafe", "threads"],
)
@pytest.mark.slow
def test_the_first_run_inside_of_a_loop_leaves_that_loop_running(begin: str) -> None:
    script = f"""
import asyncio, citykit, threading
waited = []
def wait(i):
    waited.append(citykit.run(asyncio.sleep(0.01, i)))
async def late(i):
    await asyncio.sleep(0.1)
    wait(i)
async def main():
    loop = asyncio.get_running_loop()
    moment = loop.time() + 0.1
    kept = {begin}
    async with asyncio.timeout(10):
        while len(waited) < 3:
            await asyncio.sleep(0.01)
    print(sorted(waited))
asyncio.run(main())
asyncio.run(main())
"""
    assert output(script) == "[0, 1, 2]\n[0, 1, 2]\n"


def test_run_works_at_the_prompt_of_asyncio() -> None:
    typed = "import asyncio, citykit\n" + "print(citykit.run(asyncio.sleep(0.01, 'works')))\n" * 2
    command = [sys.executable, "-m", "asyncio"]
    done = subprocess.run(command, input=typed, capture_output=True, text=True, check=True, timeout=60)
    assert (done.stdout + done.stderr).count("works") == 2
    assert "Traceback" not in done.stderr


def test_run_inside_of_a_loop_has_the_callers_context() -> None:
    script = """
import asyncio, citykit, contextvars
current = contextvars.ContextVar("current", default="nothing")
async def read():
    return current.get()
def wait(value):
    current.set(value)
    print(citykit.run(read()))
async def main():
    asyncio.get_running_loop().call_soon(wait, "a")
    await asyncio.sleep(0)
    print(citykit.run(read()))
    wait("b")
asyncio.run(main())
"""
    assert output(script) == "a\nnothing\nb\n"


@pytest.mark.slow
def test_many_runs_inside_of_a_loop_return_one_after_the_other() -> None:
    script = """
import asyncio, citykit
ended = []
async def wait(i):
    citykit.run(asyncio.sleep(0.01 if i else 0.1))
    ended.append(i)
async def main():
    await asyncio.gather(*[wait(i) for i in range(200)])
    print(ended == list(range(200)))
asyncio.run(main())
"""
    assert output(script) == "True\n"


@pytest.mark.server
def test_an_engine_is_shared_by_await_and_run_in_one_loop() -> None:
    script = """
import asyncio, citykit
async def main():
    engine = await citykit.connect()
    await citykit.create_tables(engine, reset=True)
    citykit.run(citykit.add_city(engine, "a", 1))
    print((await citykit.biggest_cities(engine))["name"].tolist())
    citykit.run(engine.dispose())
    print(citykit.run(citykit.biggest_cities(engine))["name"].tolist())
    await engine.dispose()
asyncio.run(main())
"""
    assert output(script) == "['a']\n['a']\n"


# A stream waits on the server after its first rows, and is kept.
KEPT = """
import asyncio, citykit, sys, threading
named = {"server_settings": {"application_name": sys.argv[1]}}
engine = citykit.run(citykit.connect(connect_args=named))
slow = "SELECT i FROM generate_series(1, 100000) AS i WHERE i < 50000 OR pg_sleep(600) IS NULL"
kept = []
async def begin(bind):
    asyncio.ensure_future(asyncio.sleep(600))
    kept.append(citykit.stream_frames(bind, slow, chunk_rows=10))
    print(len(await anext(kept[-1])))
async def on_a_connection():
    kept.append(await engine.connect())
    await begin(kept[0])
async def beside():
    citykit.run(begin(engine))
"""
ENDINGS = {
    "on an engine": "citykit.run(begin(engine))",
    "on a connection": "citykit.run(on_a_connection())",
    "in a thread": "thread = threading.Thread(target=citykit.run, args=[begin(engine)])\n"
    "thread.start()\nthread.join()",
    "inside of a running loop": "asyncio.run(beside())",
    "with asyncio.run": "asyncio.run(begin(engine))",
    "with sys.exit": "citykit.run(begin(engine))\nsys.exit()",
}


@pytest.mark.server
@pytest.mark.parametrize("ending", ENDINGS)
async def test_what_a_script_leaves_running_ends_with_it_without_a_word(
    engine: AsyncEngine, ending: str
) -> None:
    name = f"kept {ending}"
    assert output(KEPT + ENDINGS[ending], name) == "10\n"
    connection = await plain_connection(engine)
    assert await Watch(connection, name).left_running() == []
    await connection.close()


@pytest.mark.server
@pytest.mark.parametrize(
    "waiting",
    [
        "asyncio.gather(asyncio.sleep(0, 'a'))",
        "asyncio.create_task(asyncio.sleep(0, 'a'))",
        "citykit.biggest_cities(connection)",
        "citykit.biggest_cities(session)",
    ],
)
def test_what_belongs_to_the_running_loop_is_refused_with_the_way_out(waiting: str) -> None:
    script = f"""
import asyncio, citykit, traceback
async def main():
    engine = await citykit.connect()
    await citykit.create_tables(engine)
    async with engine.connect() as connection, citykit.sessions(engine)() as session:
        await citykit.biggest_cities(connection)
        await citykit.biggest_cities(session)
        waiting = {waiting}
        try:
            citykit.run(waiting)
        except citykit.WrongLoopError as error:
            print("".join(traceback.format_exception(error)))
        print(len(await {waiting}))
    await engine.dispose()
asyncio.run(main())
"""
    assert "Write await instead of citykit.run" in output(script)


@pytest.mark.server
def test_run_works_in_a_loop_of_any_kind_and_patches_nothing() -> None:
    script = """
import asyncio, citykit, sys
class Foreign(asyncio.AbstractEventLoop):
    is_running = lambda self: True
before = {name: vars(asyncio)[name] for name in ("Task", "Future", "run")}
asyncio._set_running_loop(Foreign())
engine = citykit.run(citykit.connect())
print(citykit.run(citykit.read_frame(engine, "SELECT 1 AS one"))["one"].tolist())
citykit.run(engine.dispose())
asyncio._set_running_loop(None)
assert before == {name: vars(asyncio)[name] for name in before}
assert "nest_asyncio2" not in sys.modules
"""
    assert output(script) == "[1]\n"


def test_run_makes_one_loop_and_at_most_one_thread_however_often_it_is_called() -> None:
    script = """
import asyncio, citykit, threading
loops, threads = set(), set()
async def noted():
    loops.add(asyncio.get_running_loop())
    threads.add(threading.current_thread())
def many():
    loops.clear(), threads.clear()
    for _ in range(100):
        citykit.run(noted())
    print(len(loops), len(threads), threading.active_count())
async def inside():
    many()
many()
asyncio.run(inside())
"""
    assert output(script) == "1 1 1\n1 1 2\n"


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


@pytest.mark.slow
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


@pytest.mark.server
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
    # asyncpg logs an error of its own for a connection that is cancelled before it asks about TLS.
    environment = os.environ | {"PGSSLMODE": "disable"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)
    assert (done.stdout, done.stderr, done.returncode) == ("0\n", "", 0)


PLACES = {"in a running loop": "asyncio.run(cell())", "outside": "cells()"}

INTERRUPTED = """
import asyncio, citykit, citykit.runtime.waiting as waiting_module, os, signal, sys, threading, time
def interrupt(seconds=0.0):
    time.sleep(seconds)
    os.kill(os.getpid(), signal.SIGINT)
    sum(range(1000))  # Python runs the signal's handler
async def cell():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as ipykernel does for a cell without await
    cells()
def cells():
    try:
        citykit.run(waiting())
    except KeyboardInterrupt:
        print("interrupted")
    print(citykit.run(asyncio.sleep(0, "works")))
"""


@pytest.mark.parametrize("place", PLACES)
def test_an_interrupt_is_raised_by_run_and_never_inside_the_loop(place: str) -> None:
    script = f"""{INTERRUPTED}
def callback():
    for _ in range(5):
        interrupt()
    print("called back")
async def waiting():
    asyncio.get_running_loop().call_soon(callback)
    try:
        await asyncio.sleep(60)
    finally:
        for _ in range(5):
            interrupt()
        print("cancelled")
{PLACES[place]}
"""
    assert output(script).split("\n") == ["called back", "cancelled", "interrupted", "works", ""]


@pytest.mark.parametrize("place", PLACES)
def test_an_interrupt_at_the_very_end_is_not_lost(place: str) -> None:
    script = f"""{INTERRUPTED}
async def waiting():
    asyncio.current_task().add_done_callback(lambda _task: interrupt())
{PLACES[place]}
"""
    assert output(script).split() == ["interrupted", "works"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("again", [False, True], ids=["after a time", "at another interrupt"])
@pytest.mark.slow
def test_an_interrupted_run_does_not_wait_without_end(place: str, again: bool) -> None:
    patience = "GIVE_UP_SECONDS = 60; waiting_module.PATIENCE_SECONDS" if again else "GIVE_UP_SECONDS"
    script = f"""{INTERRUPTED}
waiting_module.{patience} = 0.1
async def waiting():
    threading.Thread(target=lambda: [interrupt(0.2) for _ in range({4 if again else 1})]).start()
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            print("cancelled", flush=True)
{PLACES[place]}
os._exit(0)
"""
    script = script.replace('print("interrupted")', 'print("interrupted", flush=True)')
    script = script.replace('asyncio.sleep(0, "works")))', 'asyncio.sleep(0, "works")), flush=True)')
    shown = output(script).split()
    assert shown[0] == "cancelled"
    assert "interrupted" in shown
    assert "works" in shown


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.slow
def test_a_coroutine_that_does_not_yield_can_be_interrupted(place: str) -> None:
    script = f"""{INTERRUPTED}
waiting_module.PATIENCE_SECONDS = 0.1
def interrupts():
    while not enough.wait(0.2):
        interrupt()
def end():
    while sender.is_alive():
        try:
            enough.set()
            sender.join()
        except KeyboardInterrupt:  # sent before this thread said that it is enough
            pass
enough, sender = threading.Event(), threading.Thread(target=interrupts, daemon=True)
async def waiting():
    sender.start()
    until = time.monotonic() + 60
    while not enough.is_set() and time.monotonic() < until:
        time.sleep(0.01)
async def cell():
    signal.signal(signal.SIGINT, signal.default_int_handler)
    cells()
def cells():
    try:
        citykit.run(waiting())
    except KeyboardInterrupt:
        end()
        print("interrupted")
    time.sleep(0.5)
    print(citykit.run(asyncio.sleep(0, "works")))
{PLACES[place]}
"""
    assert output(script).split() == ["interrupted", "works"]


@pytest.mark.parametrize("outer", ["asyncio.run", "citykit.run"])
def test_an_interrupt_stops_a_run_inside_of_another(outer: str) -> None:
    script = f"""{INTERRUPTED}
async def waiting():
    threading.Thread(target=interrupt, args=[0.2]).start()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled")
        raise
async def main():
    citykit.run(waiting())
    print("not reached")
try:
    {outer}(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    assert output(script).split() == ["cancelled", "interrupted"]
