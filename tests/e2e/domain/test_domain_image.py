"""The controller's image: reproducible, and without what the controller does not need."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from imagebuild import debian, image, wheels
from nvdra_packages import lock, version
from nvdra_packages.layout import ARCHES

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]

RELEASE = version.Release("0.1.0", 1_700_000_000)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> image.Built:
    return image.make(tmp_path_factory.mktemp("image"), RELEASE)


@pytest.fixture(scope="module")
def blobs(built: image.Built) -> dict[str, bytes]:
    """Blobs of the archive by digest, the index of the image included."""
    found = {}
    with tarfile.open(built.path) as archive:
        for member in archive:
            content = archive.extractfile(member)
            if content is not None and member.name.startswith("blobs/"):
                found[member.name.removeprefix("blobs/").replace("/", ":")] = content.read()
    return found


def manifests(built: image.Built, blobs: dict[str, bytes]) -> dict[str, Any]:
    """Manifest by architecture."""
    entries = json.loads(blobs[built.digest])["manifests"]
    return {e["platform"]["architecture"]: json.loads(blobs[e["digest"]]) for e in entries}


def test_image_builds_are_reproducible(built: image.Built, tmp_path: Path) -> None:
    again = image.make(tmp_path, RELEASE)
    assert again.digest == built.digest
    assert again.path.read_bytes() == built.path.read_bytes()


def test_image_has_the_tag_of_the_chart(built: image.Built) -> None:
    assert built.name == "ghcr.io/nvdra/nvdra-controller:v0.1.0"
    made = version.Release("0.2.0~git20261121.abc", 0)
    assert image.tag(made) == "v0.2.0-git20261121.abc", "a tag may have no tilde"


def test_image_has_both_architectures_and_no_root_user(
    built: image.Built, blobs: dict[str, bytes]
) -> None:
    found = manifests(built, blobs)
    assert found.keys() == {"amd64", "arm64"}
    for architecture, manifest in found.items():
        config = json.loads(blobs[manifest["config"]["digest"]])
        assert config["architecture"] == architecture
        assert config["config"]["User"] == "65532:65532"
    layers = [manifest["layers"] for manifest in found.values()]
    assert layers[0][1] == layers[1][1], "our code is one layer for both"
    assert layers[0][0] != layers[1][0]


def test_image_has_no_shell_package_manager_or_node_code(built: image.Built) -> None:
    paths = image.names(built.path)
    programs = {Path(path).name for path in paths if path.startswith("usr/bin/")}
    assert programs == {"python3", "python3.11", "nvdra-controller"}
    assert not [path for path in paths if "nvdra_node" in path or "kube/fake" in path]
    assert "usr/lib/nvdra/nvdra_cluster/cli.py" in paths


def test_image_modules_are_compiled(built: image.Built) -> None:
    paths = set(image.names(built.path))
    ours = [p for p in paths if p.startswith("usr/lib/nvdra/nvdra_") and p.endswith(".py")]
    for path in ours:
        place, _, name = path.rpartition("/")
        compiled = f"{place}/__pycache__/{name.removesuffix('.py')}.cpython-311.pyc"
        assert compiled in paths, path


def test_image_lists_packages_for_vulnerability_scanners(built: image.Built) -> None:
    paths = set(image.names(built.path))
    for package in debian.PACKAGES:
        assert f"var/lib/dpkg/status.d/{package}" in paths
        # Some packages have their licence in the directory of another one of the same source.
    assert "usr/share/doc/libssl3/copyright" in paths


def test_image_wheels_are_pinned_to_tested_versions() -> None:
    pins = {pin.name: pin.version for pin in lock.read(wheels.LOCK)}
    tested = {}
    for line in lock.TESTED.read_text().splitlines():
        name, _, number = line.partition("==")
        tested[lock.normal(name)] = number
    assert set(wheels.wanted()) <= pins.keys()
    assert {name: tested[name] for name in pins} == pins


def test_image_wheels_are_pinned_for_both_architectures() -> None:
    for arch in ARCHES:
        names = [path.name for path in wheels.fetch(arch).iterdir()]
        assert any(name.startswith("cryptography") and arch.name in name for name in names)
