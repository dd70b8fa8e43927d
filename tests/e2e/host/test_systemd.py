"""The shipped unit on a host with a real systemd, its sandbox enforced."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

from tests.beds.cluster.driver import manifests as m
from tests.beds.cluster.driver.gpu_bed import TOP, Bed
from tests.beds.cluster.driver.pods import Pods
from tests.beds.cluster.layout import BRIDGE_ADDRESS
from tests.beds.host import unit_bed
from tests.beds.host.unit_bed import UnitNode
from tests.beds.host.units import IMEX_FILES, MAY, UNIT, Answers, not_refused, same, units
from tests.lib.waits import wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(240)]

BACK_S = 15.0
"""Documented limit from a hang to serving again."""
PATIENCE_S = 90.0
"""The same on a busy machine."""
CAPABILITIES = "c 235:* rwm"
"""What the device controller says of the class nvidia-caps, whose number the simulated driver got."""


@pytest.fixture(scope="module")
def host(able: None) -> Iterator[tuple[Bed, UnitNode]]:
    with unit_bed.up("e2e-systemd") as made:
        yield made


@pytest.fixture(scope="module")
def bed(host: tuple[Bed, UnitNode]) -> Bed:
    return host[0]


@pytest.fixture
def node(host: tuple[Bed, UnitNode]) -> UnitNode:
    """The node with the service enabled, started and registered."""
    bed, node = host
    node.systemctl("enable", "--now", UNIT)
    bed.wait_for_devices()
    return node


def test_started_service_is_ready_and_publishes(bed: Bed, node: UnitNode) -> None:
    assert node.show("ActiveState") == "active"
    assert node.show("StatusText") == "running"
    assert node.systemctl("is-enabled", UNIT) == "enabled\n"
    assert len(bed.devices(node.name)) == len(node.sim.profile.gpus)
    assert len(node.sockets()) == 2


def test_pod_keeps_its_gpu_over_a_restart(bed: Bed, node: UnitNode, pods: Pods) -> None:
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "pod")
    before, gpus = pods.identities(), pods.exec_gpus("pod")
    slices = [s["metadata"]["resourceVersion"] for s in bed.slices()]
    assert gpus == bed.uuids(pods.place, "pod")

    started = time.monotonic()
    node.systemctl("restart", UNIT)
    print(f"restarted in {time.monotonic() - started:.1f} s")

    node.wait_registered_again()
    assert (pods.identities(), pods.exec_gpus("pod")) == (before, gpus)
    assert [s["metadata"]["resourceVersion"] for s in bed.slices()] == slices


def test_stop_is_orderly_and_target_starts_again(node: UnitNode) -> None:
    node.systemctl("stop", UNIT)
    assert (node.show("Result"), node.show("ActiveState")) == ("success", "inactive")
    assert node.sockets() == []
    node.systemctl("start", "nvdra.target")
    wait_until("started with the target", lambda: node.show("ActiveState") == "active", 30)
    pid = node.show("MainPID")
    node.systemctl("restart", "nvdra.target")
    wait_until("restarted with the target", lambda: node.show("MainPID") not in ("0", pid), 30)


def test_reload_rescans_gpus_without_restart(bed: Bed, node: UnitNode) -> None:
    pid, healthy = node.show("MainPID"), bed.devices(node.name)
    node.sim.lose(5)
    node.systemctl("reload", UNIT)
    wait_until("the loss published", lambda: bed.devices(node.name) != healthy, 20)
    node.sim.find(5)
    node.systemctl("reload", UNIT)
    wait_until("the return published", lambda: bed.devices(node.name) == healthy, 20)
    assert (node.show("MainPID"), node.show("StatusText")) == (pid, "running")


LATE = "/var/lib/late-kubelet"
PATH_UNIT = UNIT.replace(".service", ".path")


@pytest.fixture
def late_kubelet(node: UnitNode) -> Iterator[UnitNode]:
    """A host that booted before it had a kubelet, whose directory will be ``LATE``."""
    node.systemctl("stop", UNIT)
    changes = {
        UNIT: f"[Unit]\nConditionPathIsDirectory=\nConditionPathIsDirectory={LATE}\n",
        PATH_UNIT: f"[Path]\nDirectoryNotEmpty=\nDirectoryNotEmpty={LATE}\n",
    }
    for unit, text in changes.items():
        node.write(f"/run/systemd/system/{unit}.d/late.conf", text)
    node.systemctl("daemon-reload")
    node.systemctl("start", UNIT)
    yield node
    node.systemctl("stop", UNIT)
    node.machine.run(["rm", "-rf", LATE, *(f"/run/systemd/system/{unit}.d" for unit in changes)])
    node.systemctl("daemon-reload")


def test_late_kubelet_directory_starts_the_service(late_kubelet: UnitNode) -> None:
    node = late_kubelet
    assert (node.show("ActiveState"), node.show("ConditionResult")) == ("inactive", "no")
    assert node.show("ActiveState", PATH_UNIT) == "active"
    node.write(f"{LATE}/config.yaml", "{}")
    wait_until("started by the directory", lambda: node.show("ActiveState") == "active", 30)


def test_stopped_service_is_not_started_by_path_unit(late_kubelet: UnitNode) -> None:
    node = late_kubelet
    node.write(f"{LATE}/config.yaml", "{}")
    wait_until("started by the directory", lambda: node.show("ActiveState") == "active", 30)
    node.systemctl("stop", UNIT)
    time.sleep(3)
    assert [node.show("ActiveState", unit) for unit in (UNIT, PATH_UNIT)] == ["inactive"] * 2


# --- the sandbox


@pytest.fixture(scope="module")
def answers(host: tuple[Bed, UnitNode]) -> Answers:
    return host[1].probe(BRIDGE_ADDRESS)


@pytest.fixture(scope="module")
def unbound(host: tuple[Bed, UnitNode]) -> Answers:
    """Answers of the probe on the same host without the sandbox."""
    return host[1].probe(BRIDGE_ADDRESS, unit=None)


def test_sandbox_allows_what_the_service_needs(answers: Answers) -> None:
    show(answers["allowed"])
    assert set(answers["allowed"].values()) == {"ok"}


def test_sandbox_allows_driver_devices(answers: Answers) -> None:
    show(answers["devices"])
    # The sandbox permits it; no real driver answers.
    assert set(answers["devices"].values()) == {"ENXIO"}


def test_sandbox_refuses_what_an_attacker_would_try(answers: Answers) -> None:
    show(answers["refused"])
    assert not_refused(answers) == MAY[UNIT]


def test_refusals_come_from_the_sandbox(answers: Answers, unbound: Answers) -> None:
    """Shows that the list above is of things that are possible without the sandbox."""
    # The kernel gives no cgroup real time here.
    assert same(answers, unbound) <= {"run in real time"}


@pytest.mark.parametrize("unit", MAY)
def test_each_unit_has_only_the_rights_of_its_purpose(node: UnitNode, unit: str) -> None:
    node.node.run(["sh", "-ec", IMEX_FILES])
    assert not_refused(node.probe(BRIDGE_ADDRESS, unit)) == MAY[unit]


def test_every_unit_is_probed() -> None:
    assert set(MAY) == {unit.name for unit in units() if unit.suffix == ".service"}


def test_unit_exposure_is_below_documented_limit(node: UnitNode) -> None:
    assert node.too_exposed() == {}


def test_systemd_verify_reports_nothing(node: UnitNode) -> None:
    assert node.verify() == ""


def test_memory_limit_stops_a_leak(node: UnitNode) -> None:
    assert node.memory_limit() == 1 << 30


# --- a service that hangs or dies


def test_stopped_process_is_restarted_and_serves(bed: Bed, node: UnitNode) -> None:
    serves_again(node, "stopped (SIGSTOP)", lambda pid: node.signal("STOP"))
    assert "Watchdog timeout" in node.journal()
    bed.wait_for_devices()


def test_deadlocked_service_is_restarted_and_serves(bed: Bed, node: UnitNode) -> None:
    serves_again(node, "threads held, main thread alive", node.freeze)
    assert "Watchdog timeout" in node.journal()
    bed.wait_for_devices()


def test_killed_service_is_restarted_and_leaves_no_child(bed: Bed, node: UnitNode) -> None:
    before = set(node.processes())
    serves_again(node, "killed", lambda pid: node.signal("KILL"))
    wait_until("its children ended", lambda: not before & set(node.processes()), 20)
    assert len(node.sockets()) == 2
    bed.wait_for_devices()


def test_hanging_child_delays_no_restart(node: UnitNode) -> None:
    children = [str(pid) for pid in node.processes() if str(pid) != node.show("MainPID")]
    assert children, "NVML runs in a child"
    node.node.run(["kill", "-STOP", *children])
    serves_again(node, "killed, a child hangs", lambda pid: node.signal("KILL"))
    started = time.monotonic()
    node.systemctl("restart", UNIT)
    print(f"restarted beside a child that hangs in {time.monotonic() - started:.1f} s")
    node.node.run(["kill", "-CONT", *children])
    left = set(map(int, children))
    wait_until("the child ended by itself", lambda: not left & set(node.processes()), 20)


def serves_again(node: UnitNode, what: str, harm: Callable[[str], object]) -> None:
    """Inject a fault; wait until the service serves again; print how long it took."""
    pid, restarts = node.show("MainPID"), int(node.show("NRestarts"))
    started = time.monotonic()
    harm(pid)

    def is_back() -> bool:
        is_new = int(node.show("NRestarts")) > restarts and node.show("MainPID") != pid
        return is_new and node.show("ActiveState") == "active" and node.answers()

    wait_until(f"serving again after: {what}", is_back, PATIENCE_S)
    took = time.monotonic() - started
    print(f"{what}: serves again after {took:.1f} s (promised: {BACK_S:g} s)")
    if took > BACK_S:
        print(node.journal("-o", "short-precise", f"--since=-{took + 1:.0f}s"))


# --- a directory is elsewhere


def test_documented_drop_in_moves_cdi_files(bed: Bed, node: UnitNode, pods: Pods) -> None:
    (drop_in,) = documented_drop_ins("/etc/cdi")
    node.write(f"/etc/systemd/system/{UNIT}.d/cdi.conf", drop_in)
    node.write("/etc/nvdra/config.yaml", unit_bed.settings(node.sim) + "cdiRoot: /etc/cdi\n")
    node.systemctl("daemon-reload")
    node.systemctl("restart", UNIT)
    try:
        node.wait_registered_again()
        pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
        # After several restarts the kubelet may refuse once; it syncs a pod every 60 to 90 s.
        bed.wait_running(pods.place, "pod", timeout_s=150)
        assert len(node.files("/etc/cdi/*")) == 1
        assert node.files("/run/cdi/*") == []
        pods.delete("pod")
        pods.wait_deleted("pod", 60)
    finally:
        node.node.path(f"/etc/systemd/system/{UNIT}.d/cdi.conf").unlink()
        node.write("/etc/nvdra/config.yaml", unit_bed.settings(node.sim))
        node.systemctl("daemon-reload")
        node.systemctl("restart", UNIT)


def documented_drop_ins(word: str) -> list[str]:
    """The indented drop-ins of the page on security that have ``word``, as an operator would type them."""
    blocks = (TOP / "docs" / "user" / "security.md").read_text().split("\n\n")
    found = [
        block for block in blocks if block.startswith("    # systemctl edit") and word in block
    ]
    return [textwrap.dedent(block) + "\n" for block in found]


# --- the driver comes late


def test_driver_loaded_later_is_used_without_restart(bed: Bed, node: UnitNode, pods: Pods) -> None:
    node.unload_driver()
    node.systemctl("restart", UNIT)
    wait_until("no GPUs published", lambda: not bed.devices(node.name), 30)
    assert node.show("StatusText") == "running"
    assert node.answers()
    assert CAPABILITIES not in node.allowed_devices()
    pid = node.show("MainPID")

    started = time.monotonic()
    node.load_driver()
    bed.wait_for_devices()
    print(f"GPUs published {time.monotonic() - started:.1f} s after the driver was loaded")

    assert CAPABILITIES in node.allowed_devices()
    made = {path.rpartition("/")[2] for path in node.files("/dev/nvidia*")}
    gpus = {f"nvidia{gpu.minor}" for gpu in node.sim.profile.gpus}
    assert made >= {*gpus, "nvidiactl", "nvidia-uvm", "nvidia-uvm-tools"}
    pods.create(m.pod(pods.place, "pod", templates={"gpu": "gpu"}))
    bed.wait_running(pods.place, "pod")
    assert node.show("MainPID") == pid


def test_host_booted_without_driver_serves_before_it_loads(bed: Bed, node: UnitNode) -> None:
    node.sim.unload_driver()
    node.node.reboot()
    node.boot()
    wait_until("started at boot", lambda: node.show("ActiveState") == "active", 60)
    wait_until("no GPUs published", lambda: not bed.devices(node.name), 60)
    assert node.answers()
    node.load_driver()
    bed.wait_for_devices(timeout_s=60)
    assert CAPABILITIES in node.allowed_devices()
    assert node.show("NRestarts") == "0"


def show(answers: dict[str, str]) -> None:
    print("\n".join(f"{said:14} {name}" for name, said in answers.items()))
