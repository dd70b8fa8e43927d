"""The arm64 deb on an emulated processor: its compiled parts load in Debian's own python3 for arm64."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nvdra_packages.layout import LIBRARY, made_once
from tests.beds.cluster import commands
from tests.beds.cluster.artifacts import host_image, programs
from tests.beds.cluster.artifacts.build import install_packages
from tests.beds.host.userland import changeable
from tests.packages.built import archive
from tests.packages.conftest import Packages
from tests.packages.marks import needs_packages

pytestmark = [*needs_packages(), pytest.mark.slow]

EMULATOR = "qemu-aarch64-static"
SUITE, PYTHON = "trixie", "python3.13"
PROGRAM = f"""\
import platform, sys
sys.path[:0] = ["/{LIBRARY}", "/{LIBRARY}/site-packages"]
import nvdra_node.app.gpu, yaml
from google.protobuf.internal import api_implementation
import grpc
print(platform.machine(), api_implementation.Type(), bool(yaml.CSafeLoader), bool(grpc.server))
"""


def extracted() -> Path:
    """Debian's python3 for arm64 and what it needs, unpacked and not set up (10 s the first time)."""
    install_packages(packages={**host_image.TOOLS, EMULATOR: "qemu-user-static"})

    def make(place: Path) -> None:
        root = str(place / "root")
        argv = ["mmdebstrap", "--quiet", "--variant=extract", "--architectures=arm64", SUITE, root]
        argv += ["--include=python3,libstdc++6", '--aptopt=Acquire::Check-Valid-Until "false"']
        commands.run(argv, timeout_s=900, env={**os.environ, "PATH": commands.BASE_PATH})
        # The package that makes this link does so when it is set up.
        Path(root, "lib").symlink_to("usr/lib")

    return made_once(programs.cache_dir() / "userlands" / f"{SUITE}-arm64", make) / "root"


def test_compiled_parts_load_on_aarch64(packages: Packages, tmp_path: Path):
    layer = archive.unpack(packages.files["aarch64", "deb"], tmp_path / "unpacked")
    with changeable(tmp_path, layer, extracted()) as made:
        interpreter = made.path(f"usr/bin/{PYTHON}")
        argv = [EMULATOR, "-L", str(made.root), str(interpreter), "-IBc", PROGRAM]
        done = commands.run(argv, timeout_s=600)
    assert done.stdout == "aarch64 upb True True\n"
