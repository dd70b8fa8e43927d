"""CPU affinity and times of real threads and programs."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from nvdra_core.errors import HostError
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.host.commands import SystemCommands
from nvdra_node.host.cpus import ALLOWED, Cpus

CPU = min(ALLOWED)


@pytest.fixture
def threads() -> Iterator[Cpus]:
    yield Cpus()
    for task in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # a thread that was ended just now
            os.sched_setaffinity(int(task), ALLOWED)


def test_all_threads_are_pinned_and_later_ones_too(threads: Cpus) -> None:
    seen: list[set[int]] = []
    gathered = threading.Event()

    def read() -> None:
        gathered.wait(20)
        seen.append(os.sched_getaffinity(0))

    early = threading.Thread(target=read)
    early.start()
    threads.pin(CPU)
    gathered.set()
    late = threading.Thread(target=read)
    late.start()
    early.join()
    late.join()
    assert seen == [{CPU}, {CPU}]


def test_programs_may_use_all_cpus(threads: Cpus) -> None:
    threads.pin(CPU)
    code = "import os, time; time.sleep(0.5); print(sorted(os.sched_getaffinity(0)))"
    done = SystemCommands().run([sys.executable, "-c", code], Deadline(60, SystemClock()))
    assert done.stdout.strip() == str(sorted(ALLOWED))


def test_missing_cpu_is_an_error(threads: Cpus) -> None:
    with pytest.raises(HostError, match="CPU 8191: Invalid argument"):
        threads.pin(8191)


def test_cpu_time_covers_all_threads(threads: Cpus) -> None:
    before = threads.time()
    rounds = 0
    while threads.time().worked_s < before.worked_s + 0.02:
        rounds += sum(range(1000)) > 0
    assert rounds


def test_initial_affinity_is_the_allowed_cpus() -> None:
    probe = "from nvdra_node.host.cpus import ALLOWED; print(sorted(ALLOWED))"
    argv = ["taskset", "-c", str(CPU), sys.executable, "-c", probe]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == f"[{CPU}]\n"
