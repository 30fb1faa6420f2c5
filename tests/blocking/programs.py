"""Programs of sync code: ``python -m tests.blocking.programs NAME URL``.

Each prints what it saw as one line of JSON, and then ends in its own way.
"""

from __future__ import annotations

import atexit
import ctypes
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from standfast import ConfigurationError, Standfast
from tests.blocking.sagas import Ask, Visit, app_on


def say(**seen: Any) -> None:
    print(json.dumps(seen), flush=True)


# -- ending -----------------------------------------------------------------------------------


def just_ends(app: Standfast) -> None:
    say(created=app.blocking.start(Visit, "lamp").created)


def ends_in_the_middle(app: Standfast) -> None:
    """With workers, a transaction and an iterator open, and threads that wait."""
    blocks = [app.blocking.running(drain=1), app.blocking.transaction()]
    for block in blocks:
        block.__enter__()
    operations = app.blocking.operations
    instances = operations.each(operations.select())
    assert next(instances, None) is None
    waiting = threading.Thread(target=lambda: wait(app), daemon=True)
    waiting.start()
    say(blocks=len(blocks))
    globals()["kept"] = (blocks, instances)


def wait(app: Standfast) -> None:
    try:
        app.blocking.handle("01890a5d-ac96-774b-bcce-b302099a8057").result()
    except Exception:
        return


def fails(app: Standfast) -> NoReturn:
    say(created=app.blocking.start(Visit, "lamp").created)
    raise SystemExit(3)


def until_main_has_ended() -> None:
    while not threading._SHUTTING_DOWN:  # type: ignore[attr-defined]
        time.sleep(0.005)


def main_ends_before_its_threads(app: Standfast) -> None:
    """One works and has a transaction open, one hasn't used it before, one waits its turn."""
    inside = threading.Event()

    def work() -> None:
        with app.blocking.running(), app.blocking.transaction() as tx:
            handle = tx.start(Visit, "lamp", key="open")
            inside.set()
            until_main_has_ended()
            tx.on_commit(lambda: seen.append("committed"))
        with app.blocking.running():
            seen.append(handle.result(60)["note"])

    def come_late() -> None:
        until_main_has_ended()
        seen.append(app.blocking.start(Visit, "late").created)

    def tell() -> None:
        for thread in threads:
            thread.join()
        say(seen=sorted(map(str, seen)))

    seen: list[Any] = []
    threads = [threading.Thread(target=act) for act in (work, come_late)]
    for thread in threads:
        thread.start()
    pool = ThreadPoolExecutor(1)
    for number in range(3):
        pool.submit(lambda key: seen.append(app.blocking.start(Visit, key).created), f"{number}")
    threading.Thread(target=tell).start()
    globals()["kept"] = pool
    inside.wait()


def uses_it_first_in_a_thread_that_outlives_main(app: Standfast) -> None:
    def work() -> None:
        until_main_has_ended()
        say(created=app.blocking.start(Visit, "lamp").created)

    threading.Thread(target=work).start()


def uses_it_when_all_has_ended(app: Standfast) -> None:
    @atexit.register
    def use() -> None:
        try:
            app.blocking.start(Visit, "lamp")
        except ConfigurationError as error:
            say(told=f"{error}")


def is_interrupted(app: Standfast) -> None:
    """By a real SIGINT, sent by whoever reads the first line."""
    handle = app.blocking.start(Ask, "tea?", key="asked")
    seen: dict[str, Any] = {}
    try:
        say(waits="for a result")
        handle.result()
    except KeyboardInterrupt:
        seen["interrupted"] = True
    seen["in flight"] = app.blocking.complete(tasks())
    try:
        say(waits="in a transaction")
        with app.blocking.transaction() as tx:
            tx.start(Visit, "gone", key="gone")
            handle.result()
    except KeyboardInterrupt:
        seen["interrupted again"] = True
    seen["rolled back"] = app.blocking.start(Visit, "gone", key="gone").created
    seen["in flight then"] = app.blocking.complete(tasks())
    say(**seen)
    say(waits="until its end")
    handle.result()


async def tasks() -> int:
    """Calls in flight besides this one."""
    import asyncio

    return sum("_Call" in repr(task.get_coro()) for task in asyncio.all_tasks()) - 1


# -- forking ----------------------------------------------------------------------------------


def in_child(act: Callable[[], Any], fork: Callable[[], int] = os.fork) -> tuple[int, int]:
    """Fork; what `act` answers there, or raises, can be read from the pipe."""
    reading, writing = os.pipe()
    child = fork()
    if child:
        os.close(writing)
        return child, reading
    os.close(reading)
    try:
        answer = act()
    except ConfigurationError as error:
        answer = f"{error}"
    except BaseException:
        answer = traceback.format_exc()
    with os.fdopen(writing, "w") as told:
        told.write(json.dumps(answer))
    # As workers of gunicorn do, so that all that ends a process is run.
    sys.exit(0)


def answer_of(child: tuple[int, int]) -> Any:
    with os.fdopen(child[1]) as told:
        text = told.read()
    _, status = os.waitpid(child[0], 0)
    assert os.waitstatus_to_exitcode(status) == 0, text
    return json.loads(text)


def start_twenty(app: Standfast, name: str) -> list[str]:
    return [str(app.blocking.start(Visit, "lamp", key=f"{name} {n}").id) for n in range(20)]


def forks_before_use(app: Standfast) -> None:
    children = [in_child(lambda n=n: start_twenty(app, f"child {n}")) for n in range(2)]
    ids = [*start_twenty(app, "parent"), *answer_of(children[0]), *answer_of(children[1])]
    told(app, ids)


def forks_after_use(app: Standfast) -> None:
    ids = start_twenty(app, "before")
    children = [in_child(lambda n=n: start_twenty(app, f"child {n}")) for n in range(2)]
    ids += [*start_twenty(app, "parent"), *answer_of(children[0]), *answer_of(children[1])]
    told(app, ids)


def told(app: Standfast, ids: list[str]) -> None:
    operations = app.blocking.operations
    there = [str(one.id) for one in operations.each(operations.select())]
    say(there=len(there), same=sorted(there) == sorted(ids), different=len(set(ids)))


def connections(app: Standfast) -> Any:
    """What tells a process's connections from those of others."""
    if app.database.dialect == "sqlite":
        path = app.database.url.removeprefix("sqlite:///")
        files = [
            os.stat(one) for one in (path, f"{path}-wal", f"{path}-shm") if os.path.exists(one)
        ]
        return [name for name in os.listdir("/dev/fd") if _is_one_of(int(name), files)]
    with app.blocking.transaction() as tx:
        return tx.fetch_value("SELECT pg_backend_pid()")


def _is_one_of(descriptor: int, files: list[os.stat_result]) -> bool:
    try:
        return any(os.path.samestat(os.fstat(descriptor), one) for one in files)
    except OSError:
        return False


def forks_while_it_works(app: Standfast) -> None:
    """The parent's workers go on, and the child answers what the parent's saga asks."""
    with app.blocking.running():
        handle = app.blocking.start(Ask, "tea?", key="asked")
        parents = connections(app)

        def answer() -> Any:
            inherited = connections(app) if app.database.dialect == "sqlite" else None
            app.blocking.saga(Ask, "asked").signal("answered", "yes")
            handle.status()  # one that the parent made
            mine = connections(app)
            app.blocking.close()
            return [inherited, mine]

        inherited, childs = answer_of(in_child(answer))
        result = handle.result(30)["note"]
        after = app.blocking.start(Visit, "after").result(30)["note"]
    if app.database.dialect == "sqlite":
        say(result=result, after=after, own=not inherited and bool(childs))
    else:
        say(result=result, after=after, own=parents != childs)


def forks_in_a_transaction(app: Standfast) -> None:
    with app.blocking.transaction() as tx:
        tx.start(Visit, "parent", key="parent")
        childs = answer_of(in_child(lambda: len(start_twenty(app, "child"))))
    say(childs=childs, parent=app.blocking.saga(Visit, "parent").status())


def forks_a_child_that_never_uses_it(app: Standfast) -> None:
    start_twenty(app, "before")
    quiet = answer_of(in_child(lambda: "nothing"))
    say(quiet=quiet, after=len(start_twenty(app, "after")))


def forks_in_c(app: Standfast) -> None:
    """As uWSGI does, which doesn't tell Python."""
    start_twenty(app, "before")
    child = in_child(lambda: len(start_twenty(app, "child")), ctypes.PyDLL(None).fork)
    say(after=len(start_twenty(app, "after")), childs=answer_of(child))


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    globals()[sys.argv[1]](app_on(sys.argv[2]))
