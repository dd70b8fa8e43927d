"""Tries, from inside the unit's sandbox, what the service needs and what a taken-over service would try.

Run by ``units`` on the test host; standard library only. Arguments: address and port of the
API server, pid of another user's process, the unit whose sandbox it is. Prints JSON: for each table, what was tried -> "ok", or the name of the error
that the kernel answered. What is tried does no harm where it succeeds, in mount and UTS namespaces of its own.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_FINIT_MODULE, _SYS_BPF, _SYS_KEYCTL, _SYS_PERF_EVENT_OPEN = 313, 321, 250, 298
_CLONE_NEWNS, _CLONE_NEWUSER = 0x20000, 0x10000000
_PTRACE_SEIZE = 0x4206
"""Unlike PTRACE_ATTACH it stops no process."""
_KUBELET = "/var/lib/kubelet"
_TOKEN = "/var/lib/nvdra/credential/token"

OWN = ("nvdra-probe.service", *sys.argv[4:])
"""Units whose processes do not count as foreign: its own, and the one whose sandbox is probed."""

Probe = Callable[[], object]


def write(path: str) -> Probe:
    """Make a file beside its final place, move it there, remove it."""

    def probe() -> None:
        temporary = Path(f"{path}.tmp")
        temporary.write_text("probe")
        temporary.rename(path).unlink()

    return probe


def change(path: str) -> Probe:
    """Open an existing file to write, and leave it as it is."""
    return lambda: os.close(os.open(path, os.O_WRONLY))


def listen(path: str) -> Probe:
    """Serve a unix socket, under its final name."""

    def probe() -> None:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(f"{path}.tmp")
            server.listen()
            os.rename(f"{path}.tmp", path)
        os.unlink(path)

    return probe


def unix(path: str) -> Probe:
    """Connect to a unix socket."""

    def probe() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)

    return probe


def read(path: str) -> Probe:
    """Read something of a file."""
    return lambda: Path(path).open("rb").read(1)


def names(path: str) -> Probe:
    """List a directory that must not be empty."""

    def probe() -> None:
        if not os.listdir(path):
            raise FileNotFoundError(errno.ENOENT, "empty", path)

    return probe


def opened(path: str) -> Probe:
    """Open a device to read and write. ENXIO: the sandbox lets it pass, but no driver is there."""
    return lambda: os.close(os.open(path, os.O_RDWR))


def node(path: str, kind: int, major: int, minor: int) -> Probe:
    """Make a device node."""

    def probe() -> None:
        os.mknod(path, kind | 0o600, os.makedev(major, minor))
        os.unlink(path)

    return probe


def call(name: str, *arguments: object) -> Probe:
    """Call a function of the C library that answers -1 for a failure."""

    def probe() -> None:
        if getattr(_LIBC, name)(*arguments) == -1:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))

    return probe


def connect(address: str, port: int) -> Probe:
    """Connect by TCP."""
    return lambda: socket.create_connection((address, port), 3).close()


def open_socket(family: int, kind: int, protocol: int = 0) -> Probe:
    """Make a socket."""
    return lambda: socket.socket(family, kind, protocol).close()


def setuid_file() -> None:
    """Make a program that gives its owner's rights to everybody."""
    path = Path("/tmp/setuid")
    path.touch()
    path.chmod(0o4755)


def give_away() -> None:
    """Make another user the owner of a file."""
    path = Path("/tmp/given")
    path.touch()
    os.chown(path, 1, 1)


def others(probe: Callable[[str], object]) -> Probe:
    """Do something to a process of each other service of ours; fails when all of them refuse it."""

    def tried() -> None:
        refusal = OSError(errno.ENODATA, "no other service runs")
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
            except OSError:
                continue
            found = {line.rpartition("/")[2] for line in lines}
            if not any(unit.startswith("nvdra-") for unit in found) or found & set(OWN):
                continue
            try:
                probe(f"/proc/{pid}")
            except OSError as error:
                refusal = error
            else:
                return
        raise refusal

    return tried


def make_cgroup() -> None:
    """Make a cgroup beside all others."""
    top = Path("/sys/fs/cgroup/systemd")
    path = (top if top.is_dir() else top.parent) / "probe"
    path.mkdir()
    path.rmdir()


ALLOWED: dict[str, Probe] = {
    "write a CDI file": write("/run/cdi/probe.json"),
    "write a CDI file by its old path": write("/var/run/cdi/probe.json"),
    "serve the DRA socket": listen(f"{_KUBELET}/plugins/gpu.nvidia.com/probe.sock"),
    "serve the registration socket": listen(f"{_KUBELET}/plugins_registry/probe.sock"),
    "write a record": write("/var/lib/nvdra/gpu.nvidia.com/probe"),
    "write a temporary file": write("/tmp/probe"),
    "list PCI devices": names("/sys/bus/pci/devices"),
    "read device majors": read("/proc/devices"),
    "read the boot id": read("/proc/sys/kernel/random/boot_id"),
    "read its settings": read("/etc/nvdra/config.yaml"),
    "read the node's token": read(_TOKEN),
    "read the kubelet's credential": read(f"{_KUBELET}/kubeconfig"),
    "read the kubelet's key": read(f"{_KUBELET}/pki/kubelet.key"),
    "read kubeadm's credential": read("/etc/kubernetes/kubelet.conf"),
    "reach the API server": connect(sys.argv[1], int(sys.argv[2])),
    "resolve a name": lambda: socket.getaddrinfo("node-1", 6443),
    "start a program": lambda: subprocess.run(["/bin/true"], check=True, start_new_session=True),
    "tell systemd": lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect(
        "/run/systemd/notify"
    ),
    "make a node of an NVIDIA capability": node("/dev/nvidia-caps/probe", stat.S_IFCHR, 235, 99),
}

DEVICES: dict[str, Probe] = {
    "a GPU": opened("/dev/nvidia0"),
    "the control device": opened("/dev/nvidiactl"),
}

REFUSED: dict[str, Probe] = {
    "make a node of a disk": node("/tmp/sda", stat.S_IFBLK, 8, 0),
    "make a node of memory": node("/tmp/mem", stat.S_IFCHR, 1, 1),
    "make a node of a GPU": node("/tmp/nvidia9", stat.S_IFCHR, 195, 9),
    "open the kernel log's device": opened("/dev/kmsg"),
    "open a disk": opened("/dev/probe-disk"),
    "write in /etc": write("/etc/probe"),
    "write in /usr": write("/usr/lib/probe"),
    "write in /var/log": write("/var/log/probe"),
    "write in /run": write("/run/probe"),
    "write in /var/lib/nvdra": write("/var/lib/nvdra/probe"),
    "write in the supervisor's state": write("/var/lib/nvdra/imex/probe"),
    "write beside the unit broker's socket": write("/run/nvdra/probe"),
    "change the node's token": change(_TOKEN),
    "replace the node's token": write("/var/lib/nvdra/credential/probe"),
    "open the node's token": read(_TOKEN),
    "open the key for IMEX peers": read("/var/lib/nvdra/imex/tls/probe.pem"),
    "open the settings": read("/etc/nvdra/config.yaml"),
    "open the kubelet's directory": names(_KUBELET),
    "open the kubelet's credential": read(f"{_KUBELET}/kubeconfig"),
    "open kubeadm's credential": read("/etc/kubernetes/kubelet.conf"),
    "open the shadow file": read("/etc/shadow"),
    "change its settings": change("/etc/nvdra/config.yaml"),
    "change the kubelet's settings": change(f"{_KUBELET}/config.yaml"),
    "change the kubelet's credential": change(f"{_KUBELET}/kubeconfig"),
    "write in another plugin's directory": write(f"{_KUBELET}/plugins/probe"),
    "see pods' secrets": names(f"{_KUBELET}/pods"),
    "see home directories": names("/root"),
    "ask systemd over D-Bus": unix("/run/dbus/system_bus_socket"),
    "ask systemd by its own socket": unix("/run/systemd/private"),
    "ask systemd by varlink": unix("/run/systemd/io.systemd.Manager"),
    "ask the unit broker": unix("/run/nvdra/units.sock"),
    "ask containerd": unix("/run/containerd/containerd.sock"),
    "capture packets": open_socket(socket.AF_PACKET, socket.SOCK_RAW),
    "make raw packets": open_socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    "configure the network": open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "mount": call("mount", b"tmpfs", b"/tmp", b"tmpfs", 0, None),
    "unmount": call("umount2", b"/tmp", 2),
    "chroot": lambda: os.chroot("/"),
    "unshare the mounts": call("unshare", _CLONE_NEWNS),
    "make a user namespace": call("unshare", _CLONE_NEWUSER),
    "enter a namespace": lambda: call("setns", os.open("/proc/self/ns/mnt", os.O_RDONLY), 0)(),
    "write and run memory": lambda: mmap.mmap(
        -1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    ),
    "name the host": call("sethostname", b"probe", 5),
    "load a module": call("syscall", _SYS_FINIT_MODULE, 0, b"", 0),
    "load BPF": call("syscall", _SYS_BPF, 0, None, 0),
    "use keyrings": call("syscall", _SYS_KEYCTL, 0, -3, 0, 0, 0),
    "count events": call("syscall", _SYS_PERF_EVENT_OPEN, None, 0, -1, -1, 0),
    "set the clock": call("settimeofday", None, b"\0" * 8),
    "reboot": call("reboot", 0),
    "open files as another service sees them": others(lambda place: os.listdir(f"{place}/root/")),
    "change another service's memory": others(lambda place: change(f"{place}/mem")()),
    "trace another process": call("ptrace", _PTRACE_SEIZE, 1, 0, 0),
    "set a kernel parameter": change("/proc/sys/kernel/domainname"),
    "write to sysfs": change("/sys/devices/system/cpu/uevent"),
    "make a cgroup": make_cgroup,
    "run in real time": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "make a setuid program": setuid_file,
    "change the personality": call("personality", 0x0008),
    "give a file away": give_away,
    "become another user": lambda: os.setuid(1),
    "end another user's process": lambda: os.kill(int(sys.argv[3]), signal.SIGKILL),
}


def answer(probe: Probe) -> str:
    """Return "ok" or the name of the error; in a process of its own, as a success may change the process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writer, _try(probe).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        found = answers.read()
    os.waitpid(child, 0)
    return found


def _try(probe: Probe) -> str:
    try:
        probe()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, repr(error))
    except Exception as error:  # noqa: BLE001 - reported like any other answer
        return repr(error)
    return "ok"


def main() -> None:
    """Try everything and print the answers."""
    tables = {"allowed": ALLOWED, "devices": DEVICES, "refused": REFUSED}
    found = {
        kind: {name: answer(probe) for name, probe in table.items()}
        for kind, table in tables.items()
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
