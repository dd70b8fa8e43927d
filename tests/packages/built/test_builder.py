"""The decisions of the builder, without building: pins, places, scripts, notices. Runs anywhere."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from nvdra_packages import lock, notices, pack, scripts, tree, version, wheels
from nvdra_packages.layout import ARCHES, LOCK, PACKAGING, PYTHONS, TOP, BuildError
from nvdra_packages.version import Release

RELEASE = Release("1.2.3", 1_700_000_000)


def pinned_for_tests() -> dict[str, str]:
    lines = lock.TESTED.read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line)
    return {lock.normal(name): found for name, found in pairs}


def wheel(directory: Path, name: str, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(directory / name, "w") as made:
        for path, data in files.items():
            made.writestr(path, data)


def elf(machine: int) -> bytes:
    return b"\x7fELF" + bytes(14) + machine.to_bytes(2, "little") + bytes(40)


def test_node_requirements_are_pinned_to_tested_versions():
    pins = {pin.name: pin.version for pin in lock.read()}
    assert set(lock.wanted()) <= set(pins)
    tested = pinned_for_tests()
    assert pins == {name: tested[name] for name in pins}


def test_compiled_projects_have_wheels_for_all_targets():
    counts = {pin.name: len(pin.hashes) for pin in lock.read()}
    assert set(counts.values()) <= {1, len(ARCHES), len(ARCHES) * len(PYTHONS)}


@pytest.mark.parametrize(
    "line", ["grpcio==1.0", "grpcio --hash=sha256:" + "a" * 64, "grpcio==1.0 --hash=sha256:12"]
)
def test_pin_without_version_or_hash_is_refused(tmp_path: Path, line: str):
    path = tmp_path / "lock.txt"
    path.write_text(line + "\n")
    with pytest.raises(BuildError, match="not a pin with hashes"):
        lock.read(path)


def test_lock_file_reads_as_it_was_written(tmp_path: Path):
    path = tmp_path / "lock.txt"
    path.write_text(lock.text_of(lock.read()))
    assert lock.read(path) == lock.read()
    assert path.read_text() == LOCK.read_text()


def test_unpinned_download_is_refused(tmp_path: Path):
    (tmp_path / "grpcio-1.whl").write_bytes(b"something else")
    with pytest.raises(BuildError, match=r"grpcio-1.whl: its hash is not in requirements-node.txt"):
        wheels.check_hashes(tmp_path, lock.read())


def test_wheels_with_different_shared_file_are_not_merged(tmp_path: Path):
    source = tmp_path / "wheels"
    source.mkdir()
    wheel(source, "a-1-cp310.whl", {"a/x.py": b"1", "a-1.dist-info/RECORD": b"1"})
    wheel(source, "a-1-cp311.whl", {"a/x.py": b"2", "a-1.dist-info/RECORD": b"2"})
    with pytest.raises(BuildError, match=r"a-1-cp311.whl: its x.py differs"):
        wheels.merge(source, tmp_path / "merged", ARCHES[0])


def test_merged_wheels_keep_each_compiled_module(tmp_path: Path):
    source, merged = tmp_path / "wheels", tmp_path / "merged"
    source.mkdir()
    for python in PYTHONS:
        module = f"a/_a.cpython-{python.replace('.', '')}-x86_64-linux-gnu.so"
        files = {"a/x.py": b"1", module: elf(62), "a-1.dist-info/RECORD": python.encode()}
        wheel(source, f"a-1-cp{python}.whl", files)
    wheels.merge(source, merged, ARCHES[0])
    found = {path.name for path in merged.rglob("*") if path.is_file()}
    assert found == {
        "x.py",
        *(f"_a.cpython-{p.replace('.', '')}-x86_64-linux-gnu.so" for p in PYTHONS),
    }


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"a/_a.abi3.so": elf(183)}, "not compiled for x86_64"),
        ({"a/_a.cpython-310-x86_64-linux-gnu.so": elf(62)}, "some Python lacks"),
    ],
)
def test_missing_or_foreign_compiled_module_fails_build(tmp_path: Path, files, why):
    source = tmp_path / "wheels"
    source.mkdir()
    wheel(source, "a-1.whl", files)
    with pytest.raises(BuildError, match=why):
        wheels.merge(source, tmp_path / "merged", ARCHES[0])


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("nvdra-x.service", "usr/lib/systemd/system/nvdra-x.service"),
        ("nvdra.target", "usr/lib/systemd/system/nvdra.target"),
        ("kubelet.service.d/nvdra.conf", "usr/lib/systemd/system/kubelet.service.d/nvdra.conf"),
        ("90-nvdra.preset", "usr/lib/systemd/system-preset/90-nvdra.preset"),
        ("71-nvdra.rules", "usr/lib/udev/rules.d/71-nvdra.rules"),
        ("nvdra.conf", "usr/lib/tmpfiles.d/nvdra.conf"),
        ("tmpfiles.d/nvdra.conf", "usr/lib/tmpfiles.d/nvdra.conf"),
    ],
)
def test_unit_files_are_installed_by_kind(name: str, place: str):
    assert tree.place_of(Path(name)) == place


@pytest.mark.parametrize("name", ["nvdra.txt", "other.d/nvdra.conf", "README"])
def test_file_of_unknown_kind_fails_build(name: str):
    with pytest.raises(BuildError, match="not known where"):
        tree.place_of(Path(name))


def test_target_wants_the_services_of_the_preset(tmp_path: Path):
    units, presets = tmp_path / tree.UNIT_DIR, tmp_path / "usr/lib/systemd/system-preset"
    units.mkdir(parents=True)
    presets.mkdir()
    (presets / "90-nvdra.preset").write_text("enable a.service\nenable b.service\n")
    (units / "a.service").write_text("[Install]\nWantedBy=multi-user.target nvdra.target\n")
    (units / "b.service").write_text("[Service]\n")
    (units / "c.service").write_text("[Install]\nWantedBy=nvdra.target\n")
    tree.make_target_want(tmp_path)
    found = {path.name: str(path.readlink()) for path in (units / "nvdra.target.wants").iterdir()}
    assert found == {"a.service": "../a.service"}


def test_upgrade_restarts_services_but_not_imex(tmp_path: Path):
    units = {
        "nvdra-gpu-plugin.service": "[Service]\nType=notify\n",
        "nvdra-driver.service": "[Service]\nType=oneshot\n",
        "nvdra-imex.service": "[Service]\nType=forking\n",
        "nvdra-mps@.service": "[Service]\nType=forking\n",
        "nvdra.target": "[Unit]\n",
    }
    for name, text in units.items():
        (tmp_path / name).write_text(text)
    assert scripts.services_of(tmp_path) == ["nvdra-gpu-plugin.service"]


def test_maintainer_scripts_are_complete_and_parse(tmp_path: Path):
    units = tmp_path / "units"
    units.mkdir()
    (units / "nvdra-gpu-plugin.service").write_text("[Service]\nType=notify\n")
    others = ["nvdra.target", "nvdra-credential.timer", "nvdra-gpu-plugin.path", "nvdra.socket"]
    for name in others:
        (units / name).write_text("[Unit]\n")
    scripts.write(tmp_path, units, ["3.10", "3.11"])
    found = sorted(str(p.relative_to(tmp_path)) for p in tmp_path.glob("*/p*"))
    assert len(found) == 7
    for name in found:
        text = (tmp_path / name).read_text()
        assert not re.search(r"@[A-Z_]+@", text)
        assert 'not_compiled="3.12 3.13 3.14"' in text
        assert f'others="{" ".join(others)}"' in text
        subprocess.run(["sh", "-n", tmp_path / name], check=True)


def test_upgrade_stops_nothing():
    """Between the old files and the new ones the services go on: claims are prepared and unprepared meanwhile."""
    prerm = (PACKAGING / "scripts/deb/prerm").read_text()
    assert re.search(r'if \[ "\$1" = remove \]; then\s+stop_services', prerm)
    assert prerm.count("stop_services") == 1
    preun = (PACKAGING / "scripts/rpm/preun").read_text()
    assert re.search(r'if \[ "\$1" = 0 \]; then\n(    .*\n)*    stop_services', preun)
    assert preun.count("stop_services") == 1


def test_missing_signing_key_fails_build(tmp_path: Path):
    with pytest.raises(BuildError, match=r"no-key.asc: there is no such key file"):
        pack.make_all(tmp_path / "out", RELEASE, key=tmp_path / "no-key.asc")
    assert not (tmp_path / "out").exists()


def test_changelog_has_entries_of_the_release():
    text = "# Changelog\n\n## Unreleased\n\n- later\n\n## 1.2.3\n\n### GPU plugin\n\n- one\n  and a half\n- two\n\n## 1.2.2\n\n- old\n"
    assert notices.changelog(text, RELEASE) == (
        "nvdra (1.2.3) stable; urgency=medium\n\n  * GPU plugin: one and a half\n  * GPU plugin: two\n\n"
        " -- nvdra maintainers <maintainers@nvdra.example>  Tue, 14 Nov 2023 22:13:20 +0000\n"
    )


def test_changelog_of_unlisted_release_is_unreleased_section():
    text = "# Changelog\n\n## Unreleased\n\n### Chart\n\n- later\n"
    assert "  * Chart: later\n" in notices.changelog(text, RELEASE)


def test_abi3_wheel_of_oldest_python_serves_all():
    names = [f"a-1-cp3{n}-abi3-{arch}.whl" for n in (11, 9) for arch in ("x86_64", "aarch64")]
    names += ["b-1-cp310-cp310-x86_64.whl", "b-1-cp311-cp311-x86_64.whl", "c-1.tar.gz"]
    assert sorted(lock.without_newer_abi3(names)) == sorted(names[2:])


def test_project_without_reviewed_licence_fails_build():
    project = notices.Project("new", "1", "", "", (), "", ())
    with pytest.raises(BuildError, match=r"new: its licence is not in notices.LICENSES"):
        _ = project.license


def test_licences_match_the_pinned_projects():
    assert set(notices.LICENSES) == {pin.name for pin in lock.read()}


def test_commit_before_release_has_lower_version():
    found = version.current()
    tagged = re.fullmatch(r"\d+\.\d+\.\d+", found.version)
    assert tagged or re.fullmatch(r"\d+\.\d+\.\d+~git\d{14}\.[0-9a-f]{8}", found.version)
    assert found.version.startswith(version.project_version())


@pytest.mark.parametrize("wrong", ["", "1", "v1.2.3", "1.2.3-1", "1.2.3 4"])
def test_version_read_differently_by_dpkg_and_rpm_is_refused(wrong: str):
    with pytest.raises(BuildError, match="want numbers and dots"):
        version.current(wrong)


def test_project_and_code_have_the_same_version():
    text = (TOP / "nvdra_core" / "__init__.py").read_text()
    assert f'__version__ = "{version.project_version()}"' in text


def test_launcher_parses_on_oldest_python():
    """RHEL 9 has 3.9 as python3: there it starts another one."""
    import ast

    text = (PACKAGING / "launcher.in").read_text().replace("@", "_")
    ast.parse(text, feature_version=(3, 7))
    assert text.startswith("#!/usr/bin/python3 -IB\n")
