"""The node's key, request and certificate for its IMEX peers."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from nvdra_core.api.fabric import FabricCertificate
from nvdra_core.errors import HostError
from nvdra_core.runtime.clock import SystemClock
from nvdra_node.host.commands import SystemCommands
from nvdra_node.host.files import HostFiles
from nvdra_node.host.ports import CommandResult
from nvdra_node.imex.certificate import CertificateStore
from tests.fakes.clock import FakeClock
from tests.fakes.host.commands import FakeCommands
from tests.fakes.host.files import FakeFiles

SIGNED = FabricCertificate(certificate="C", authorities="A", not_after="2030-01-01T00:00:00Z")
RSA_KEY = b"""-----BEGIN RSA PRIVATE KEY-----
MIIBOgIBAAJBAKj34GkxFhD90vcNLYLInFEX6Ppy1tPf9Cnzj4p4WGeKLs1Pt8Qu
-----END RSA PRIVATE KEY-----
"""


def open_store(directory: Path) -> CertificateStore:
    return CertificateStore(directory / "tls", SystemCommands(), HostFiles(), SystemClock())


def test_new_key_is_private_and_signs_the_request(tmp_path):
    request = open_store(tmp_path).request()
    parsed = x509.load_pem_x509_csr(request.encode())
    key = load_pem_private_key((tmp_path / "tls/key.pem").read_bytes(), password=None)
    assert parsed.is_signature_valid and parsed.public_key() == key.public_key()
    assert parsed.subject.rfc4514_string() == "CN=nvdra-imex"
    assert "PRIVATE" not in request
    for name in ("key.pem", "request.pem"):
        assert stat.S_IMODE((tmp_path / "tls" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "tls").stat().st_mode) == 0o700


def test_restart_keeps_key_and_request(tmp_path):
    assert open_store(tmp_path).request() == open_store(tmp_path).request()


def test_lost_request_is_made_again_with_the_same_key(tmp_path):
    open_store(tmp_path).request()
    key = (tmp_path / "tls/key.pem").read_bytes()
    (tmp_path / "tls/request.pem").unlink()
    open_store(tmp_path).request()
    assert (tmp_path / "tls/key.pem").read_bytes() == key


@pytest.mark.parametrize("damage", [b"\0" * 241, b"-----BEGIN PRIVATE KEY-----\nMIG", RSA_KEY])
def test_damaged_key_is_kept_aside_and_replaced(tmp_path, damage):
    first = open_store(tmp_path).request()
    key = tmp_path / "tls/key.pem"
    key.write_bytes(damage)
    (tmp_path / "tls/cert.pem").write_text("of the old key")
    second = open_store(tmp_path).request()
    assert second.startswith("-----BEGIN CERTIFICATE REQUEST-----") and second != first
    assert key.with_name("key.pem.damaged").read_bytes() == damage
    assert not (tmp_path / "tls/cert.pem").exists()
    assert open_store(tmp_path).request() == second


def test_signed_certificate_completes_the_store_once(tmp_path):
    store, calls = open_store(tmp_path), []
    store.request()
    assert not store.is_complete
    for _ in range(2):
        store.install(SIGNED, lambda: calls.append("changed"))
    is_complete: bool = store.is_complete
    assert (is_complete, calls) == (True, ["changed"])


def test_half_written_certificate_is_reported_when_complete():
    files, calls = FakeFiles(), []
    store = CertificateStore(Path("/tls"), FakeCommands(FakeClock(), {}), files, FakeClock())
    files.put(Path("/tls/ca.pem"), b"old")
    files.faults.fail_at = 4  # of "ca.pem": the three steps before are of "cert.pem"
    store.install(SIGNED, lambda: calls.append("changed"))
    assert (calls, files.read(Path("/tls/cert.pem"))) == ([], b"C")
    files.put(Path("/tls/ca.pem"), b"A")  # written by hand meanwhile
    store.install(SIGNED, lambda: calls.append("changed"))
    assert calls == ["changed"]


def test_child_without_a_request_is_an_error(tmp_path):
    commands = FakeCommands(
        FakeClock(), {sys.executable: lambda argv: CommandResult(stdout="no PEM", stderr="")}
    )
    store = CertificateStore(tmp_path / "tls", commands, HostFiles(), FakeClock())
    with pytest.raises(HostError, match="printed none"):
        store.request()
