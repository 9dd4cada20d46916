"""A provider made before a fork works on both sides; nothing hangs, nothing is lost, nothing corrupts."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from otel_audit.testing import Collector
from tests.archive_material import assert_delivered, assert_sound, record_ids, run_python, ship

# Each program ends itself, saying where it hung, rather than be waited for.
START = """
import asyncio, faulthandler, multiprocessing, os, sys, threading, time, warnings
faulthandler.dump_traceback_later(25, exit=True)
warnings.simplefilter("ignore", DeprecationWarning)
from otel_audit import AuditProvider

path, endpoint = sys.argv[1], sys.argv[2] or None
provider = AuditProvider(archive=path, host="example.com", endpoint=endpoint, protocol=sys.argv[3])
log = provider.get_logger("fork")

def record(count, user="alice"):
    for _ in range(count):
        # Long ones: the write-ahead log is written back and begun anew while processes come and go.
        assert log.audit("user.login.success", user=user, custom={"x": {"y": "z" * 12_000}}).sequence

def end(child):
    pid, status = os.waitpid(child, 0)
    assert status == 0, status

def fork(work):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)
"""

MANY_CHILDREN = """
record(10)
def in_child():
    record(50, "child")
    end(fork(lambda: record(20, "grandchild")))
    record(10, "child")
    assert provider.shutdown(30)
children = [fork(in_child) for _ in range(4)]
record(100)
for child in children:
    end(child)
record(10)
assert provider.shutdown(30)
"""

# Where two threads fork, one fork begins while another is under way.
WHILE_THREADS_WRITE = """
stop = threading.Event()
def write(count=0):
    while not stop.is_set():
        record(1, "thread")
threads = [threading.Thread(target=write) for _ in range(4)]
for thread in threads:
    thread.start()
def forks():
    for _ in range(6):
        end(fork(lambda: record(5, "child")))
forking = [threading.Thread(target=forks) for _ in range(FORKING)]
for thread in forking:
    thread.start()
for thread in forking:
    thread.join()
stop.set()
for thread in threads:
    thread.join()
assert provider.shutdown(30)
"""

ASYNCIO = """
async def tasks(user):
    receipts = await asyncio.gather(*(log.aaudit("user.login.success", user=user) for _ in range(30)))
    assert all(receipt.sequence for receipt in receipts)
asyncio.run(tasks("before"))
def in_child():
    asyncio.run(tasks("child"))
    assert provider.shutdown(30)
children = [fork(in_child) for _ in range(2)]
asyncio.run(tasks("parent"))
for child in children:
    end(child)
assert provider.shutdown(30)
"""

MULTIPROCESSING = """
def work(number):
    record(20, f"worker{number}")
    assert provider.force_flush(30)
    return os.getpid()
record(5)
with multiprocessing.get_context("fork").Pool(3) as pool:
    assert len(pool.map(work, range(9), chunksize=1)) == 9
record(5)
assert provider.shutdown(30)
"""

PROGRAMS = {
    "children": (MANY_CHILDREN, 10 + 4 * 80 + 110),
    "threads": (f"FORKING = 1\n{WHILE_THREADS_WRITE}", None),
    "forking threads": (f"FORKING = 2\n{WHILE_THREADS_WRITE}", None),
    "asyncio": (ASYNCIO, 4 * 30),
    "multiprocessing": (MULTIPROCESSING, 9 * 20 + 10),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_both_sides_of_a_fork_record_and_ship(name: str, protocol: str, archive_path: Path) -> None:
    """Parent, children and grandchildren record into one sound archive, and all of it arrives."""
    program, records = PROGRAMS[name]
    with Collector() as collector:
        endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
        run_python(START + program, archive_path, endpoint, protocol)
        assert_sound(archive_path, records=records)
        assert len(record_ids(archive_path)) > 6 * 5
        # A child that ended without a flush may have left the last ones to whoever ships next.
        assert ship(archive_path, collector)
        assert_delivered(archive_path, collector)


def test_forks_do_not_disturb_the_parents_shipping(archive_path: Path) -> None:
    """While children come and go, the parent goes on shipping, and no record comes twice."""
    program = """
    for _ in range(20):
        record(20)
        end(fork(lambda: record(5, "child")))
    record(1)
    assert provider.force_flush(30)
    assert provider.shutdown(30)
    """
    with Collector() as collector:
        run_python(START + textwrap.dedent(program), archive_path, collector.endpoint, "http/protobuf")
        assert_sound(archive_path, records=20 * 25 + 1)
        assert set(assert_delivered(archive_path, collector).values()) == {1}


def test_what_was_queued_before_a_fork_is_written_once(archive_path: Path) -> None:
    """Records that wait in the parent's memory are the parent's: a child does not write them again."""
    program = """
    provider.durability = "queued"
    for count in range(3000):
        log.audit("user.login.success", user="parent")
        if count % 1000 == 500:
            def in_child():
                log.audit("user.login.success", user="child")
                assert provider.shutdown(30)
            end(fork(in_child))
    assert provider.shutdown(30)
    """
    run_python(START + textwrap.dedent(program), archive_path, "", "http/protobuf")
    assert_sound(archive_path, records=3003)


def test_a_child_that_outlives_its_parent_takes_the_shipping_over(archive_path: Path) -> None:
    """The lease is the parent's alone: when it dies, the child gets it and ships what both recorded."""
    program = """
    record(10)
    assert provider.force_flush(30)
    reading, writing = os.pipe()
    if os.fork():
        record(10)
        os.close(reading)
        os._exit(0)  # the lease goes with the process; the pipe tells the child
    os.close(writing)
    os.read(reading, 1)
    record(10, "child")
    assert provider.force_flush(30)
    assert provider.shutdown(30)
    print("done", flush=True)
    os._exit(0)  # the watchdog of `faulthandler` is not fork-safe: at a proper exit it would wait for its thread
    """
    with Collector() as collector:
        # Waits for the child too, which holds the other end of its output.
        output = run_python(START + textwrap.dedent(program), archive_path, collector.endpoint, "http/protobuf")
        assert output == "done\n"
        assert_sound(archive_path, records=30)
        assert_delivered(archive_path, collector)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs a list of open files")
def test_a_child_inherits_no_file_of_the_archive(archive_path: Path) -> None:
    """Archive, write-ahead log and lease are closed before a fork: an inherited connection would corrupt the file."""
    program = """
    def open_files():
        names = []
        for number in os.listdir("/proc/self/fd"):
            try:
                names.append(os.readlink(f"/proc/self/fd/{number}"))
            except FileNotFoundError:
                pass  # the listing's own
        return [name for name in names if name.startswith(path)]
    record(10)
    assert provider.force_flush(30)
    assert len(open_files()) >= 3, open_files()
    def in_child():
        assert open_files() == [], open_files()
        record(1)
        assert len(open_files()) >= 2, open_files()
    end(fork(in_child))
    record(1)
    assert provider.shutdown(30)
    """
    with Collector() as collector:
        run_python(START + textwrap.dedent(program), archive_path, collector.endpoint, "http/protobuf")
        assert_sound(archive_path, records=12)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs a list of open files")
@pytest.mark.parametrize("moment", ["while others come to rest", "when all are at rest"])
def test_what_opens_the_archive_during_a_fork_waits_for_it(moment: str, archive_path: Path) -> None:
    """A connection that another thread makes while a fork is under way is opened after it, not inherited."""
    before = """
    import os, threading
    opened = threading.Event()
    def open_another():
        def work():
            global database
            database = Database(path, "read")
            with database as connection:
                opened.set()
                connection.execute("SELECT count(*) FROM meta").fetchall()
        threading.Thread(target=work).start()
        opened.wait(0.5)
    # Called last: such functions are called in the reverse order of their registration.
    os.register_at_fork(before=lambda: late and open_another())
    late = False
    """
    program = """
    from otel_audit import forksafe
    from otel_audit.archive.database import Database
    class Slow(forksafe.ForkAware):
        def before_fork(self):
            open_another()
    if sys.argv[4].startswith("when"):
        late = True
    else:
        forksafe.register(slow := Slow())
    def in_child():
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        names = [os.readlink(link) for link in links if os.path.lexists(link)]
        assert not [name for name in names if name.startswith(path)], names
    record(1)
    end(fork(in_child))
    assert opened.wait(20)
    assert provider.shutdown(30)
    """
    program = textwrap.dedent(before) + START + textwrap.dedent(program)
    run_python(program, archive_path, "", "http/protobuf", moment)
    assert_sound(archive_path, records=1)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs a list of open files")
@pytest.mark.parametrize("handler", ["signal.default_int_handler", "lambda *_: handled.append(1)"])
def test_a_signal_during_a_fork(handler: str, archive_path: Path) -> None:
    """A signal that comes while the archive is closed for a fork is handled afterwards, and later forks work, too."""
    program = """
    import signal
    from otel_audit import forksafe
    handled = []
    signal.signal(signal.SIGINT, eval(sys.argv[4]))
    class Interrupted(forksafe.ForkAware):
        def before_fork(self):
            before = list(handled)
            os.kill(os.getpid(), signal.SIGINT)
            assert handled == before
        def after_fork_in_parent(self):
            os.kill(os.getpid(), signal.SIGINT)
    forksafe.register(interrupted := Interrupted())
    more = AuditProvider(archive=path, host="example.com", ship=False)
    def in_child():
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        names = [os.readlink(link) for link in links if os.path.lexists(link)]
        assert not [name for name in names if name.startswith(path)], names
        record(1)
    for number in range(3):
        record(1)
        more.get_logger("more").audit("user.logout")
        end(fork(in_child))
        assert len(handled) in {0, 2 * number + 2}
    assert provider.shutdown(30) and more.shutdown(30)
    """
    run_python(START + textwrap.dedent(program), archive_path, "", "http/protobuf", handler)
    assert_sound(archive_path, records=9)
