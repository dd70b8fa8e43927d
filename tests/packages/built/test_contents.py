"""What the packages carry: the list of files, what compiled parts need, where all comes from; and the same each time."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

from nvdra_packages import lock, pack, tree
from nvdra_packages.layout import ARCHES, DOCS, LIBRARY, SHIPPED_PACKAGES, SITE_PACKAGES, TOP
from tests.beds.cluster.artifacts.build import install_packages
from tests.packages.built import archive
from tests.packages.conftest import RELEASE, Packages, fingerprint
from tests.packages.marks import needs_packages

pytestmark = needs_packages()

GOLDEN = Path(__file__).parent / "golden" / "files.txt"
DEPENDED_ON = {
    *(
        "libc.so.6",
        "libm.so.6",
        "libpthread.so.0",
        "librt.so.1",
        "libdl.so.2",
        "ld-linux-x86-64.so.2",
    ),
    *("ld-linux-aarch64.so.1", "libstdc++.so.6", "libgcc_s.so.1"),
}
"""Libraries of the packages that nfpm.yaml depends on: libc6 and libstdc++6 (which brings libgcc)."""
OLDEST_GLIBC = (2, 28)
"""What nfpm.yaml asks for."""

by_arch = pytest.mark.parametrize("arch", ARCHES, ids=lambda a: a.name)


@pytest.fixture(scope="module")
def unpacked(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("unpacked")
    return {a.name: archive.unpack(packages.files[a.name, "deb"], place / a.name) for a in ARCHES}


def test_files_are_those_of_the_list(packages: Packages):
    """Code, wheels, units and pages are listed by directory: they come and go."""
    listed = (f"/{LIBRARY}/nvdra_", f"/{SITE_PACKAGES}/", f"/{tree.UNIT_DIR}/", f"/{DOCS}/docs/")
    found = [e for e in archive.entries(packages.deb).values() if not e.name.startswith(listed)]
    lines = [f"{e.mode} {e.name}" for e in sorted(found, key=lambda e: e.name)]
    assert lines == GOLDEN.read_text().splitlines()


def test_modules_are_those_of_the_nodes_packages(packages: Packages):
    """No fakes, beds or tests; the wheels' own are below site-packages."""
    sources = {
        f"/{LIBRARY}/{p.relative_to(TOP)}"
        for n in SHIPPED_PACKAGES
        for p in (TOP / n).rglob("*.py")
    }
    names = archive.entries(packages.deb).keys()
    wheels = f"/{SITE_PACKAGES}/"
    assert {n for n in names if n.endswith(".py") and not n.startswith(wheels)} == sources
    listed = subprocess.run(
        ["rpm", "-qlp", packages.rpm], capture_output=True, text=True, check=True
    )
    in_rpm = listed.stdout.split()
    assert {n for n in in_rpm if n.endswith(".py") and not n.startswith(wheels)} == sources


def test_files_belong_to_root_and_only_commands_execute(packages: Packages):
    for entry in archive.entries(packages.deb).values():
        assert entry.owner == "0:0"
        is_command = entry.name.startswith("/usr/bin/") or entry.name.endswith("/purge.sh")
        assert entry.mode in ("d0755", "l0777", "l0000", "-0755" if is_command else "-0644")


def test_units_are_packaged_and_wanted_by_target(packages: Packages):
    found = archive.entries(packages.deb)
    for path in (p for p in tree.UNITS.rglob("*") if p.is_file()):
        assert "/" + tree.place_of(path.relative_to(tree.UNITS)) in found
    wanted = found[f"/{tree.UNIT_DIR}/nvdra.target.wants/nvdra-gpu-plugin.service"]
    assert wanted.link == "../nvdra-gpu-plugin.service"


def test_code_is_that_of_the_checkout_and_nothing_else(unpacked: dict[str, Path]):
    for package in SHIPPED_PACKAGES:
        shipped = unpacked["x86_64"] / LIBRARY / package
        found = {
            p.relative_to(shipped) for p in shipped.rglob("*") if p.is_file() and p.suffix != ".pyc"
        }
        assert found == {p.relative_to(TOP / package) for p in (TOP / package).rglob("*.py")}


def test_architectures_differ_only_in_compiled_modules(packages: Packages):
    names = [
        {
            re.sub(r"x86_64|aarch64", "ARCH", name)
            for name in archive.entries(packages.files[a.name, "deb"])
        }
        for a in ARCHES
    ]
    assert names[0] == names[1]


@by_arch
def test_rpm_installs_what_the_deb_does(packages: Packages, arch):
    install_packages(packages={"rpm": "rpm"})
    deb = {
        n for n, e in archive.entries(packages.files[arch.name, "deb"]).items() if e.mode[0] != "d"
    }
    listed = subprocess.run(
        ["rpm", "-qpl", packages.files[arch.name, "rpm"]],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert deb - set(listed.splitlines()) == set()


@by_arch
def test_compiled_modules_need_only_declared_libraries(unpacked: dict[str, Path], arch):
    for module in sorted(unpacked[arch.name].rglob("*.so")):
        headers = subprocess.run(
            ["objdump", "-p", module], check=True, capture_output=True, text=True
        ).stdout
        assert set(re.findall(r"NEEDED +(\S+)", headers)) <= DEPENDED_ON, module
        versions = re.findall(r"GLIBC_(\d+)\.(\d+)", headers)
        assert max((int(a), int(b)) for a, b in versions) <= OLDEST_GLIBC, module


@by_arch
def test_bill_of_materials_has_pinned_hash_of_every_wheel(unpacked, arch):
    document = json.loads((unpacked[arch.name] / DOCS / "nvdra.cdx.json").read_text())
    pins = {pin.name: pin for pin in lock.read()}
    assert {c["name"] for c in document["components"]} == set(pins)
    for component in document["components"]:
        pin = pins[component["name"]]
        hashes = {h["content"] for r in component["externalReferences"] for h in r["hashes"]}
        assert component["version"] == pin.version
        assert hashes
        assert hashes <= set(pin.hashes)
    refs = {c["bom-ref"] for c in document["components"]}
    refs.add(document["metadata"]["component"]["bom-ref"])
    assert {d["ref"] for d in document["dependencies"]} == refs


def test_package_says_its_version_everywhere(packages: Packages, unpacked: dict[str, Path]):
    assert archive.field(packages.deb, "Version") == RELEASE
    top = unpacked["x86_64"]
    assert (
        f'__version__ = "{RELEASE}"' in (top / LIBRARY / "nvdra_core" / "__init__.py").read_text()
    )
    changelog = gzip.decompress((top / DOCS / "changelog.gz").read_bytes()).decode()
    assert changelog.startswith(f"nvdra ({RELEASE}) ")


def test_packages_are_the_same_when_made_again_elsewhere(packages: Packages, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = os.umask(0o077)
    try:
        again = pack.make_all(tmp_path / "again", packages.release, ARCHES[1:])
    finally:
        os.umask(before)
    if fingerprint() != packages.sources:
        pytest.fail("the checkout was changed meanwhile, so nothing can be compared: run again")
    for one, form in zip(again, pack.FORMATS, strict=True):
        first = packages.files[ARCHES[1].name, form]
        assert one.path.name == first.name
        assert one.path.read_bytes() == first.read_bytes()


def test_wheels_are_the_same_when_merged_and_compiled_again(tmp_path):
    def content(top: Path) -> dict[str, str]:
        files = sorted(path for path in top.rglob("*") if path.is_file())
        return {str(p.relative_to(top)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    tree.merge_and_compile(tmp_path, ARCHES[0])
    assert content(tmp_path) == content(tree.site_packages(ARCHES[0]))
