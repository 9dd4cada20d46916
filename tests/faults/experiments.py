"""All experiments: what each does, and how often in a full and in a quick run."""

from __future__ import annotations

from functools import partial
from typing import Final

from tests.faults import beside, clocks, crash_states, damage, disks, forks, kills, load, locks, power, syscalls, teeth
from tests.faults.collectors import COLLECTORS
from tests.faults.frame import Experiment
from tests.faults.fuzz import FUZZING
from tests.faults.injection import needs_loop, needs_strace

__all__ = ["EXPERIMENTS"]

_ext4, _xfs = partial(needs_loop, "ext4"), partial(needs_loop, "xfs")

_ALL: Final = (
    Experiment(
        name="kill", fault="`kill -9` at random: threads, tasks, queues; 3 processes an archive",
        run=kills.kill_writers, full=10_000, quick=120,
    ),
    Experiment(
        name="kill-ship", fault="`kill -9` while shipping to a collector that fails a fifth of the time",
        run=kills.kill_shipping, full=300, quick=20,
    ),
    Experiment(
        name="kill-call", fault="`kill -9` before every nth system call of each kind",
        run=syscalls.kill_at_calls, full=0, quick=0, missing=needs_strace,
    ),
    Experiment(
        name="io", fault="EIO, ENOSPC, EDQUOT at every nth read, write, sync, truncation: once, and for ever",
        run=syscalls.failing_calls, full=0, quick=0, missing=needs_strace,
    ),
    Experiment(
        name="power-ext4", fault="power cut, ext4",
        run=partial(power.power_cuts, kind="ext4"), full=1_000, quick=20, missing=_ext4,
    ),
    Experiment(
        name="power-xfs", fault="power cut, xfs",
        run=partial(power.power_cuts, kind="xfs"), full=1_000, quick=20, missing=_xfs,
    ),
    Experiment(
        name="states", fault="states of the disk after a power cut at each write and sync, torn and reordered",
        run=crash_states.crash_states, full=20_000, quick=800,
    ),
    Experiment(
        name="states-sync", fault="the same, with syncs that failed before and whose writes the kernel forgot",
        run=partial(crash_states.crash_states, failing_syncs=True), full=20_000, quick=1_600,
    ),
    Experiment(
        name="full", fault="disk full under a writer (tmpfs, ext4, limit on file sizes), and room again",
        run=disks.full_disks, full=60, quick=6, missing=_ext4,
    ),
    Experiment(
        name="read-only", fault="disk read-only: remounted, and by an error of ext4 under a writer",
        run=disks.read_only_disks, full=60, quick=6, missing=_ext4,
    ),
    Experiment(
        name="moved", fault="archive moved, replaced, without permissions, without its log, under a writer",
        run=disks.moved_files, full=60, quick=6,
    ),
    Experiment(
        name="log-files", fault="`-shm`, `-wal`, or both removed under several writers, others starting",
        run=disks.removed_log_files, full=100, quick=6,
    ),
    Experiment(
        name="handles", fault="only n file handles left, n = 1, 2, 3 …",
        run=disks.few_handles, full=0, quick=0,
    ),
    Experiment(
        name="stopped", fault="a process stopped while it holds the write lock, or anywhere; then let go or killed",
        run=locks.stopped_holders, full=40, quick=3,
    ),
    Experiment(
        name="reader", fault="a reader that keeps a snapshot while the log grows",
        run=locks.long_readers, full=5, quick=1,
    ),
    Experiment(
        name="fork", fault="os.fork amid recording, children and grandchildren, some killed",
        run=forks.forking, full=600, quick=30,
    ),
    Experiment(
        name="pool", fault="processes of a multiprocessing pool, replaced after two tasks",
        run=forks.pools, full=150, quick=12,
    ),
    Experiment(
        name="gunicorn", fault="gunicorn's preloaded workers killed and replaced amid requests",
        run=forks.gunicorn_workers, full=40, quick=3,
    ),
    Experiment(
        name="celery", fault="Celery's prefork workers killed and replaced after a few tasks",
        run=forks.celery_workers, full=10, quick=1,
    ),
    Experiment(
        name="clock", fault="the wall clock jumps: years ahead and back, an hour, a nanosecond",
        run=clocks.clock_jumps, full=1_000, quick=60,
    ),
    Experiment(
        name="damage", fault="log removed or cut, file cut, page zeroed, a bit flipped, after a kill",
        run=damage.damage, full=1_000, quick=60,
    ),
    Experiment(
        name="older", fault="an older copy in the archive's place, between two lives and under a writer",
        run=damage.older_copies, full=100, quick=10,
    ),
    Experiment(
        name="edits", fault="random edits of rows, tables, schema, whole files",
        run=damage.edits, full=100_000, quick=2_000,
    ),
    Experiment(
        name="load", fault="ten seconds of load: 4 processes, a failing collector, `show -f` and `verify` beside",
        run=load.load, full=180, quick=2,
    ),
    *COLLECTORS,
    *FUZZING,
    Experiment(
        name="outage", fault="the collector is down for a while, 1,000 or more records a second",
        run=beside.our_outage, full=3, quick=1,
    ),
    Experiment(
        name="exit", fault="`kill -9` as the last of 1,000 calls returned",
        run=beside.our_kill, full=20, quick=2,
    ),
    Experiment(
        name="teeth-sync", fault="power cut, ext4, with `synchronous=NORMAL`", subject="teeth",
        run=teeth.without_sync, full=100, quick=20, missing=_ext4,
    ),
    Experiment(
        name="teeth-receipt", fault="`kill -9`, with the receipt before the commit", subject="teeth",
        run=teeth.receipt_before_commit, full=300, quick=20,
    ),
    Experiment(
        name="teeth-cursor", fault="`kill -9` while shipping, with the cursor before the answer", subject="teeth",
        run=teeth.cursor_before_answer, full=100, quick=20,
    ),
    Experiment(
        name="teeth-cursor-sync", fault="failed syncs and a power cut, with `synchronous=NORMAL` for cursors",
        subject="teeth", run=partial(crash_states.crash_states, failing_syncs=True, lax_cursor=True),
        full=20_000, quick=20_000,
    ),
    Experiment(
        name="sdk-outage", fault="the collector is down for a while, 1,000 or more records a second", subject="sdk",
        run=beside.sdk_outage, full=3, quick=1,
    ),
    Experiment(
        name="sdk-exit", fault="`kill -9` as the last of 1,000 calls returned", subject="sdk",
        run=beside.sdk_kill, full=20, quick=2,
    ),
)  # fmt: skip

EXPERIMENTS: Final = {experiment.name: experiment for experiment in _ALL}
"""All experiments by their names, in the order of the table."""
