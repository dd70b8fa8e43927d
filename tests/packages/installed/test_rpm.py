"""The rpm in a root of its own: dependencies, installation, verification, upgrade, removal.

No registry here has a userland of a distribution with rpm: its scripts run in Debian's, with stand-ins for what it
depends on.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from nvdra_packages import pack
from nvdra_packages.layout import ARCHES, CONFIG, LIBRARY
from tests.beds.cluster.artifacts.build import install_packages
from tests.beds.host import standins
from tests.beds.host.userland import DISTRIBUTIONS, Userland, changeable
from tests.beds.rack import collection, tools
from tests.packages.conftest import NEXT, RELEASE, Packages
from tests.packages.installed.test_debian import (
    CDI_FILE,
    FOREIGN_CDI_FILES,
    KUBECONFIG,
    LOCK,
    RECORD,
)
from tests.packages.marks import needs_packages

pytestmark = needs_packages()

PROVIDED = {
    "glibc": "2.34",
    "libstdc++": "11",
    "systemd": "252",
    "util-linux": "2.37",
    standins.TOOLKIT: "1.19.1",
}
"""RHEL 9's versions."""


@dataclass(frozen=True)
class SignedRpm:
    """A signed rpm, the public key to check it with, and the key's id."""

    path: Path
    public: Path
    key: str


class RpmRoot:
    """A root file system whose packages are rpm's."""

    def __init__(self, userland: Userland, scratch: Path) -> None:
        self.userland = userland
        self._scratch = scratch
        self.rpm("--initdb")
        for name, version in PROVIDED.items():
            self.provide(name, version)

    def rpm(self, *words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        # Debian's rpm warns of itself whenever it changes a root.
        own = ["--force-debian"] if words[0] in ("-i", "-U", "-e") else []
        argv = ["rpm", "--root", str(self.userland.root), *map(str, words), *own]
        return subprocess.run(argv, check=check, capture_output=True, text=True)

    def provide(self, name: str, version: str) -> None:
        """Install a stand-in."""
        self.rpm("-i", standins.make(self._scratch / "standins", name, form="rpm", version=version))


@pytest.fixture
def root(packages: Packages, tmp_path: Path) -> Iterator[RpmRoot]:
    install_packages(packages={"rpm": "rpm"})
    with changeable(tmp_path, DISTRIBUTIONS[0].root()) as made:
        yield RpmRoot(made, tmp_path)


@pytest.fixture
def installed(root: RpmRoot, packages: Packages) -> RpmRoot:
    root.provide("python3", "3.12.5")
    done = root.rpm("-i", packages.rpm)
    assert done.stderr == ""
    return root


@pytest.mark.parametrize(
    ("name", "version", "is_enough"),
    [
        ("python3", "3.9.18", False),
        ("python3", "3.10.0", True),
        ("python3", "3.12.5", True),
        ("python3", "3.15.0", False),
        ("python3.11", "3.11.9", True),
        ("python3.12", "3.12.5", True),
    ],
)
def test_unsupported_python_is_refused(root, packages, name, version, is_enough):
    root.provide(name, version)
    done = root.rpm("-i", "--test", packages.rpm, check=False)
    assert (done.returncode == 0) is is_enough
    assert is_enough or "python3" in done.stderr


def test_installed_files_verify_and_the_command_runs(installed: RpmRoot):
    assert installed.rpm("-V", "nvdra").stdout == ""
    assert "check-config" in installed.userland.run("nvdra-node", "--help").stdout


def test_nothing_is_enabled(installed: RpmRoot):
    assert list(installed.userland.path("etc/systemd/system").rglob("nvdra*")) == []


def test_upgrade_and_downgrade_keep_settings_and_claims(installed: RpmRoot, packages: Packages):
    userland = installed.userland
    for path in (RECORD, CDI_FILE):
        userland.write(path, "{}")
    userland.write(CONFIG, "logVerbosity: 6\n")
    for package, expected in ((packages.next_rpm, NEXT), (packages.rpm, RELEASE)):
        installed.rpm("-U", "--oldpackage", package)
        assert installed.rpm("-q", "--qf", "%{VERSION}", "nvdra").stdout == expected
        assert userland.path(CONFIG).read_text() == "logVerbosity: 6\n"
        assert userland.path(RECORD).exists()
        assert userland.path(CDI_FILE).exists()
        changed = installed.rpm("-V", "nvdra", check=False).stdout.splitlines()
        assert [line for line in changed if not re.fullmatch(rf"S\.5\S* +c /{CONFIG}", line)] == []


def test_removal_leaves_claims_and_no_code(installed: RpmRoot):
    for path in (RECORD, CDI_FILE):
        installed.userland.write(path, "{}")
    installed.rpm("-e", "nvdra")
    assert not installed.userland.path(LIBRARY).exists()
    assert installed.userland.path(RECORD).exists()
    assert installed.userland.path(CDI_FILE).exists()


def test_purge_script_leaves_nothing(root: RpmRoot, packages: Packages):
    root.provide("python3", "3.12.5")
    userland = root.userland
    for path in FOREIGN_CDI_FILES:
        userland.write(path, "{}")
    userland.path(LOCK).parent.parent.mkdir(parents=True)
    before = userland.files()
    root.rpm("-i", packages.rpm)
    for path in (RECORD, CDI_FILE, LOCK, KUBECONFIG):
        userland.write(path, "{}")
    userland.run(f"/{LIBRARY}/purge.sh")
    root.rpm("-e", "nvdra")
    assert userland.files() == before
    assert not userland.path(CDI_FILE).exists()
    assert all(userland.path(path).exists() for path in FOREIGN_CDI_FILES)


@pytest.fixture(scope="module")
def signed(packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SignedRpm]:
    """The rpm, made with an operator's key; its public half is in ``public``."""
    place = tmp_path_factory.mktemp("signed")
    home, key = place / "gnupg", place / "private.asc"
    home.mkdir(mode=0o700)

    def gpg(*words: str) -> str:
        argv = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", "", *words]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    gpg("--quick-generate-key", "packages@nvdra.example", "rsa3072", "sign", "never")
    key.write_text(gpg("--armor", "--pinentry-mode", "loopback", "--export-secret-keys"))
    (place / "public.asc").write_text(gpg("--armor", "--export"))
    listed = gpg("--list-keys", "--with-colons")
    (made,) = pack.make_all(place / "out", packages.release, ARCHES[:1], ["rpm"], key)
    yield SignedRpm(made.path, place / "public.asc", listed.split("pub:")[1].split(":")[3].lower())
    subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=False)


def test_signed_rpm_is_good_where_its_key_is_known(root: RpmRoot, signed: SignedRpm):
    done = root.rpm("-K", signed.path, check=False)
    assert (done.returncode, "SIGNATURES NOT OK" in done.stdout) == (1, True)
    root.rpm("--import", signed.public)
    done = root.rpm("-Kv", signed.path)
    assert re.search(rf"Header V4 RSA/SHA256 Signature, key ID {signed.key[-8:]}: OK", done.stdout)
    known = root.rpm("-q", "gpg-pubkey", "--qf", "%{VERSION}\n").stdout.split()
    assert [key for key in known if signed.key.endswith(key)], "as the playbooks compare it"


def test_signed_rpm_that_was_changed_is_refused(root: RpmRoot, signed: SignedRpm, tmp_path: Path):
    root.rpm("--import", signed.public)
    data = bytearray(signed.path.read_bytes())
    data[-1000] ^= 1
    changed = tmp_path / signed.path.name
    changed.write_bytes(data)
    done = root.rpm("-K", changed, check=False)
    assert (done.returncode, "NOT OK" in done.stdout) == (1, True)


def test_signer_of_an_rpm_is_read_without_rpm(packages: Packages, signed: SignedRpm):
    signature = collection.load("module_utils.rpm_signature")
    assert signature.signer(str(signed.path)) == signed.key
    assert signature.signer(str(packages.rpm)) == ""
    assert signature.signer(str(packages.deb)) == ""
    assert signature.signer("/nonexistent") == ""


def test_rpm_without_a_key_is_not_signed(root: RpmRoot, packages: Packages):
    done = root.rpm("-Kv", packages.rpm)
    assert "Signature" not in done.stdout


_IMPORT = """\
- hosts: localhost
  connection: local
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: nvdra.node.nvdra
        tasks_from: signing_key
"""


def test_playbooks_have_rpm_trust_the_key_once(signed: SignedRpm, tmp_path: Path):
    home = tmp_path / "home"
    (home / "packages").mkdir(parents=True)
    (home / ".rpmmacros").write_text(f"%_dbpath {home}/rpmdb\n")
    (home / "import.yml").write_text(_IMPORT)
    env = {**tools.environment(tmp_path), "HOME": str(home)}

    def run(*argv: str | Path) -> str:
        done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
        return done.stdout + done.stderr

    run("rpm", "--initdb")
    assert "NOT OK" in run("rpm", "-K", signed.path)
    known = {"nvdra_signing_key": str(signed.public), "nvdra_cache_dir": str(home)}
    variables = json.dumps({**known, "ansible_python_interpreter": sys.executable})
    argv = [str(tools.home() / "ansible-playbook"), "-i", "localhost,", "-e", variables]
    for changed in ("changed=2", "changed=0"):
        said = run(*argv, home / "import.yml")
        assert re.search(rf"localhost +: ok=\d+ +{changed} .*failed=0", said), said
    assert "digests signatures OK" in run("rpm", "-K", signed.path)
