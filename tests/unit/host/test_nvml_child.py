"""Real NVML children: idle exit, errors, and end with their parent."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nvdra_core.errors import HostError, NvmlError
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.host import driverroot
from nvdra_node.host.nvml import ChildNvml, ChildSettings
from tests.sim.api import SimRoot

pytestmark = pytest.mark.sim

CLOCK = SystemClock()


@pytest.fixture
def root(tmp_path: Path) -> SimRoot:
    return SimRoot.create(tmp_path / "host", "l4x2")


def make(root: SimRoot, idle_s: float = 60.0) -> ChildNvml:
    return ChildNvml(lambda: driverroot.library(root.path), ChildSettings(idle_s=idle_s))


@pytest.fixture
def nvml(root: SimRoot) -> Iterator[ChildNvml]:
    made = make(root)
    yield made
    made.close()


def ask(nvml: ChildNvml, timeout_s: float = 5.0) -> int:
    """The number of GPUs, by way of the child; returns the child's pid."""
    assert nvml.call("system", Deadline(timeout_s, CLOCK))["count"] == 2
    assert nvml.pid is not None
    return nvml.pid


def ended(pid: int, timeout_s: float = 60.0) -> bool:
    """Whether the process ends in time (a child of ours stays a zombie until it is reaped)."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([fd], [], [], timeout_s)[0])
    finally:
        os.close(fd)


def test_idle_child_exits_and_next_call_starts_another(root: SimRoot) -> None:
    nvml = make(root, idle_s=0.1)
    first = ask(nvml)
    assert ended(first)
    assert ask(nvml) != first
    nvml.close()


def test_child_that_collects_events_does_not_exit(root: SimRoot) -> None:
    nvml = make(root, idle_s=0.1)
    nvml.call("watch_events", Deadline(60, CLOCK))
    pid = ask(nvml)
    assert not ended(pid, 0.4)
    nvml.close()
    assert ended(pid)


def test_child_killed_in_a_call_is_an_error_and_replaced(root: SimRoot, nvml: ChildNvml) -> None:
    pid = ask(nvml)
    slot = root.fault("nvmlDeviceGetCount_v2", hang=True)
    killer = threading.Timer(0.2, os.kill, (pid, signal.SIGKILL))
    killer.start()
    with pytest.raises(NvmlError, match="ended"):
        nvml.call("system", Deadline(60, CLOCK))
    killer.join()
    root.clear_fault(slot)
    assert ask(nvml) != pid


def test_child_death_between_calls_is_an_error_once(nvml: ChildNvml) -> None:
    pid = ask(nvml)
    os.kill(pid, signal.SIGKILL)
    assert ended(pid)
    with pytest.raises(NvmlError):
        ask(nvml)
    ask(nvml)


def test_unloadable_library_is_a_host_error_with_cause(tmp_path: Path) -> None:
    library = tmp_path / "libnvidia-ml.so.1"
    library.write_text("not an ELF file")
    nvml = ChildNvml(lambda: library)
    with pytest.raises(HostError, match="does not load"):
        nvml.call("system", Deadline(60, CLOCK))
    nvml.close()


def test_wrong_arguments_do_not_end_the_child(nvml: ChildNvml) -> None:
    pid = ask(nvml)
    with pytest.raises(HostError, match="unexpected keyword"):
        nvml.call("gpu", Deadline(60, CLOCK), number=1)
    assert ask(nvml) == pid


def test_sigterm_to_the_service_does_not_end_a_busy_child(nvml: ChildNvml) -> None:
    pid = ask(nvml)
    os.kill(pid, signal.SIGTERM)
    assert ask(nvml) == pid


_PARENT = """
import sys
from pathlib import Path
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.host.nvml import ChildNvml
nvml = ChildNvml(lambda: Path(sys.argv[1]))
nvml.call("system", Deadline(60, SystemClock()))
print(nvml.pid, flush=True)
nvml.call("gpu", Deadline(60, SystemClock()), index=0)
"""


def test_child_ends_with_its_parent_while_nvml_hangs(root: SimRoot) -> None:
    root.fault("nvmlDeviceGetUUID", gpu=0, hang=True)
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(root.nvml_library)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
        text=True,
    )
    with parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        parent.kill()
    assert ended(pid)


def test_child_with_unreadable_input_exits() -> None:
    code = "from nvdra_node.host.nvml_child import main; main('libnone.so', 0.0)"
    with open("/dev/null", "wb") as unreadable:
        child = subprocess.Popen([sys.executable, "-c", code], stdin=unreadable)
    try:
        assert ended(child.pid, 20.0)
    finally:
        child.kill()
        child.wait()
