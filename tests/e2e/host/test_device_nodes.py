"""What ``nvdra-device-nodes.service`` runs, with NVIDIA's own nvidia-modprobe: all nodes that containers need are created."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.beds.cluster import commands
from tests.beds.cluster.artifacts import programs
from tests.beds.host.units import UNITS
from tests.sim import smi
from tests.sim.api import SimRoot
from tests.sim.fs.tree import MAJOR_NVIDIA, MAJOR_UVM

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

# nvidia-modprobe reads /proc and makes nodes in /dev: both are this namespace's own.
WORLD = """\
set -e
mount -t tmpfs dev /dev
mkdir -p /dev/char /dev/proc/sys/kernel
mknod /dev/null c 1 3
cp -a "$1/proc/devices" "$1/proc/driver" /dev/proc/
printf 'nvidia 1 0 - Live 0x0\\nnvidia_uvm 1 0 - Live 0x0\\n' >/dev/proc/modules
echo /bin/true >/dev/proc/sys/kernel/modprobe
mount --bind /dev/proc /proc
set +e
shift
for line; do sh -c "$line"; done
stat -c '%n %Hr:%Lr %a' /dev/nvidia*
"""


@pytest.fixture(scope="module")
def modprobe() -> Path:
    """NVIDIA's program, from Debian's archive, once into the cache."""
    home = programs.cache_dir() / "nvidia-modprobe"
    program = home / "nvidia-modprobe"
    if not program.exists():
        fetch("nvidia-modprobe", home / "apt")
        shutil.copy2(home / "apt/unpacked/usr/bin/nvidia-modprobe", program)
        shutil.rmtree(home / "apt")
    return program


def fetch(package: str, place: Path) -> None:
    """Unpack a package of Debian 12's contrib section below ``place``; the machine's package lists stay unchanged."""
    for part in ("lists/partial", "archives/partial"):
        (place / part).mkdir(parents=True, exist_ok=True)
    lines = [f"deb [signed-by={key}] {site} bookworm contrib\n" for site, key in smi.mirrors()]
    (place / "sources.list").write_text("".join(lines))
    settings = {
        "Dir::Etc::sourcelist": place / "sources.list",
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::State::lists": place / "lists",
        "Dir::Cache": place,
        "Dir::Cache::archives": place / "archives",
        "APT::Sandbox::User": "",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    commands.run(["apt-get", "-q", *options, "update"], cwd=place)
    commands.run(["apt-get", "-q", *options, "download", package], cwd=place)
    (found,) = place.glob(f"{package}_*.deb")
    commands.run(["dpkg-deb", "-x", str(found), str(place / "unpacked")])


def lines_of_the_unit() -> list[str]:
    """The shell commands of the unit, as systemd hands them to the shell."""
    text = (UNITS / "nvdra-device-nodes.service").read_text()
    starts = [line for line in text.splitlines() if line.startswith("ExecStart=")]
    words = [shlex.split(line.removeprefix("ExecStart=-")) for line in starts]
    assert all(word[:2] == ["/bin/sh", "-c"] for word in words)
    return [word[2].replace("$$", "$") for word in words]


def test_nodes_of_all_gpus_and_of_uvm_are_made(able: None, modprobe: Path, tmp_path: Path) -> None:
    sim = SimRoot.create(tmp_path / "host", "h100x8")
    argv = ["unshare", "-m", "sh", "-c", WORLD, "sh", str(sim.path), *lines_of_the_unit()]
    done = subprocess.run(
        argv,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"PATH": f"{modprobe.parent}:{commands.BASE_PATH}"},
    )
    assert done.stderr == ""
    gpus = {f"/dev/nvidia{gpu.minor} {MAJOR_NVIDIA}:{gpu.minor} 666" for gpu in sim.profile.gpus}
    assert set(done.stdout.splitlines()) == {
        *gpus,
        f"/dev/nvidiactl {MAJOR_NVIDIA}:255 666",
        f"/dev/nvidia-uvm {MAJOR_UVM}:0 666",
        f"/dev/nvidia-uvm-tools {MAJOR_UVM}:1 666",
    }
