"""The deb in each distribution: installed without a network, upgraded, downgraded, removed, purged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nvdra_packages.layout import CONFIG, LIBRARY
from tests.beds.cluster.errors import CommandError
from tests.beds.host import standins
from tests.beds.host.userland import DISTRIBUTIONS, Distribution, Userland, changeable
from tests.packages.conftest import NEXT, RELEASE, Packages
from tests.packages.marks import needs_packages

pytestmark = needs_packages()

RECORD = "/var/lib/nvdra/gpu.nvidia.com/claims/7a1ab1d3-0000-4000-8000-000000000001.json"
CDI_FILE = "/run/cdi/k8s.gpu.nvidia.com-claim_7a1ab1d3-0000-4000-8000-000000000001.yaml"
FOREIGN_CDI_FILES = (
    "/run/cdi/nvidia.yaml",
    "/run/cdi/k8s.gpu.nvidia.com-claim_99999999-0000-4000-8000-000000000002.yaml",
)
LOCK = "/var/lib/kubelet/plugins/gpu.nvidia.com/nvdra.lock"
KUBECONFIG = "/etc/nvdra/kubeconfig"


@pytest.fixture(scope="module", params=DISTRIBUTIONS, ids=lambda d: d.name)
def distribution(request: pytest.FixtureRequest) -> Distribution:
    found: Distribution = request.param
    if reason := found.why_not():
        pytest.skip(f"NOT RUN: {reason}")
    return found


@pytest.fixture
def userland(distribution: Distribution, tmp_path: Path) -> Iterator[Userland]:
    with changeable(tmp_path, distribution.root()) as made:
        yield made


@pytest.fixture(scope="module")
def installation(
    distribution: Distribution, packages: Packages, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What an installation changed, as a layer."""
    scratch = tmp_path_factory.mktemp(distribution.name)
    with changeable(scratch, distribution.root()) as made:
        made.install(packages.deb, packages.toolkit)
    return scratch / "upper"


@pytest.fixture
def installed(distribution: Distribution, installation: Path, tmp_path: Path) -> Iterator[Userland]:
    with changeable(tmp_path, installation, distribution.root()) as made:
        yield made


def version(userland: Userland) -> str:
    return userland.run("dpkg-query", "-W", "-f", "${Version}", "nvdra").stdout


def test_toolkit_too_old_to_list_driver_files_is_refused(
    userland: Userland, packages: Packages, tmp_path: Path
):
    old = standins.make(tmp_path / "old", standins.TOOLKIT, version="1.15.0-1")
    with pytest.raises(CommandError) as caught:
        userland.install(packages.deb, old)
    assert "nvidia-container-toolkit-base (>= 1.16.0)" in caught.value.stdout


def prepare_a_claim(userland: Userland) -> None:
    """What the service leaves on a host that has a claim prepared."""
    for path in (RECORD, CDI_FILE, *FOREIGN_CDI_FILES, LOCK, KUBECONFIG):
        userland.write(path, "{}")


def test_command_runs_with_distribution_python(installed: Userland, distribution: Distribution):
    assert "check-config" in installed.run("nvdra-node", "--help").stdout
    assert "/etc/nvdra/config.yaml" not in installed.run("nvdra-node", "check-config").stderr
    said = installed.run("/usr/bin/python3", "-V").stdout
    assert said.startswith(f"Python {distribution.python}.")


def test_every_module_can_be_imported(installed: Userland):
    """With the compiled parts of this Python: none is missing and none needs a library that is not depended on."""
    program = (
        f"import sys; sys.path[:0] = ['/{LIBRARY}', '/{LIBRARY}/site-packages']; "
        "import nvdra_node.app.gpu, nvdra_node.cli, nvdra_node.host.nvml_child, yaml, grpc; "
        "grpc.server; yaml.CSafeLoader; "
        "from google.protobuf.internal import api_implementation as a; print(a.Type())"
    )
    assert installed.run("/usr/bin/python3", "-IBc", program).stdout == "upb\n"


def test_modules_are_compiled_for_distribution_python(
    installed: Userland, distribution: Distribution
):
    tag = "cpython-" + distribution.python.replace(".", "")
    top = installed.path(LIBRARY)
    sources = {path for path in top.rglob("*.py")}
    bare = [p for p in sources if not (p.parent / "__pycache__" / f"{p.stem}.{tag}.pyc").exists()]
    assert len(sources) > 200
    assert bare == []


def test_units_are_read_without_complaint(installed: Userland):
    imex = installed.path("/usr/bin/nvidia-imex")  # of the driver's packages
    imex.write_text("#!/bin/sh\n")
    imex.chmod(0o755)
    units = sorted(p.name for p in installed.path("usr/lib/systemd/system").glob("nvdra*.service"))
    done = installed.run("systemd-analyze", "verify", "--man=no", *units, check=False)
    assert [line for line in done.stderr.splitlines() if "nvdra" in line] == []


def test_nothing_is_enabled(installed: Userland):
    assert list(installed.path("etc/systemd/system").rglob("nvdra*")) == []


def test_upgrade_and_downgrade_keep_settings_and_claims(installed: Userland, packages: Packages):
    prepare_a_claim(installed)
    installed.write(CONFIG, "logVerbosity: 6\n")
    for package, expected in ((packages.next_deb, NEXT), (packages.deb, RELEASE)):
        installed.install(package, options=["--allow-downgrades"])
        assert version(installed) == expected
        assert installed.path(CONFIG).read_text() == "logVerbosity: 6\n"
        assert installed.path(RECORD).exists()
        assert installed.path(CDI_FILE).exists()
        assert "logVerbosity" in installed.run("nvdra-node", "check-config").stdout
        assert installed.run("dpkg", "--verify", "nvdra").stdout in ("", f"??5?????? c /{CONFIG}\n")


def test_removal_keeps_claims_and_settings_only(installed: Userland):
    prepare_a_claim(installed)
    installed.run("apt-get", "remove", "-y", "nvdra")
    assert not installed.path(LIBRARY).exists()
    for path in (RECORD, CDI_FILE, KUBECONFIG, CONFIG):
        assert installed.path(path).exists()


def test_purge_removes_ours_and_keeps_others_files(userland: Userland, packages: Packages):
    userland.install(packages.toolkit)
    for path in FOREIGN_CDI_FILES:
        userland.write(path, "{}")
    userland.path(LOCK).parent.parent.mkdir(parents=True)
    before = userland.files()
    userland.install(packages.deb)
    prepare_a_claim(userland)
    userland.run("apt-get", "purge", "-y", "nvdra")
    assert userland.files() == before
    assert not userland.path(CDI_FILE).exists()
    assert all(userland.path(path).exists() for path in FOREIGN_CDI_FILES)


def test_purge_keeps_files_of_upstreams_driver(installed: Userland):
    prepare_a_claim(installed)
    theirs = "/var/lib/kubelet/plugins/gpu.nvidia.com/checkpoint.json"
    installed.write(theirs, "{}")
    installed.run("apt-get", "purge", "-y", "nvdra")
    assert installed.path(theirs).exists()
