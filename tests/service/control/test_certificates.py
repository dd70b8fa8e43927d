"""Certificates on their way: from the node's request to its spec, kept, renewed, and with a CA that changes."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator

import pytest
from cryptography import x509
from prometheus_client import generate_latest

from nvdra_core.api.fabric import slot_name
from nvdra_core.kube.resources import Resource
from tests.beds.services.controller_rack import CLIQUE, NAMESPACE, Rack, Tray
from tests.lib.waits import wait_until
from tests.unit.control.certificates.test_ca import a_request

DAY_S = 86400.0
SECRETS = Resource("", "v1", "secrets")


@pytest.fixture
def rack() -> Iterator[Rack]:
    with Rack(issues_certificates=True) as made:
        made.start()
        yield made


def a_tray(rack: Rack, name: str = "a") -> Tray:
    tray = rack.tray(name)
    tray.request = a_request()
    tray.report()
    tray.wait_for(lambda spec: bool(spec.get("certificate")))
    return tray


def certificate(rack: Rack, name: str = "a") -> x509.Certificate:
    return x509.load_pem_x509_certificate(rack.spec(name)["certificate"]["certificate"].encode())


def test_node_certificate_names_slot_and_is_signed_by_secret_ca(rack: Rack):
    a_tray(rack)
    alternative = certificate(rack).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    names = alternative.value.get_values_for_type(x509.DNSName)
    assert names == [slot_name(CLIQUE, rack.spec("a")["slot"])]
    secret = rack.client.get(SECRETS, "nvdra-imex-ca", namespace=NAMESPACE)
    ca = base64.b64decode(secret["data"]["ca.crt"]).decode()
    assert rack.spec("a")["certificate"]["authorities"] == ca
    certificate(rack).verify_directly_issued_by(x509.load_pem_x509_certificate(ca.encode()))


def test_certificate_is_kept_over_a_restart(rack: Rack):
    tray = a_tray(rack)
    before = certificate(rack)
    rack.stop_controllers()
    rack.start()
    rack.create_domain()
    rack.claim("a")
    tray.join()
    wait_until("ready", lambda: rack.status().get("status") == "Ready")
    assert certificate(rack) == before


def test_new_key_gets_new_certificate(rack: Rack):
    tray = a_tray(rack)
    before = certificate(rack)
    tray.request = a_request()
    tray.report()
    wait_until("another", lambda: certificate(rack) != before)


def test_certificate_is_renewed_in_time(rack: Rack):
    a_tray(rack)
    before = certificate(rack)
    rack.advance(21 * DAY_S)
    wait_until("another", lambda: certificate(rack) != before)
    assert certificate(rack).not_valid_after_utc > before.not_valid_after_utc


def test_successor_of_ca_is_announced_before_it_is_used(rack: Rack):
    a_tray(rack)
    rack.advance(800 * DAY_S)

    def authorities() -> int:
        return int(rack.spec("a")["certificate"]["authorities"].count("BEGIN CERTIFICATE"))

    wait_until("two are trusted", lambda: authorities() == 2)
    issuer = certificate(rack).issuer
    rack.advance(3 * DAY_S)
    wait_until("the new one signs", lambda: certificate(rack).issuer != issuer)
    assert authorities() == 2


def test_bad_request_affects_no_other_node(rack: Rack):
    bad = rack.tray("bad")
    bad.request = "nonsense"
    bad.report()
    a_tray(rack)
    bad.wait_for(lambda spec: spec.get("slot") is not None)
    assert "certificate" not in rack.spec("bad")


def test_lost_ca_is_replaced_and_old_one_stays_trusted(rack: Rack):
    a_tray(rack)
    before = certificate(rack)
    old = rack.spec("a")["certificate"]["authorities"]
    rack.stop_controllers()
    rack.client.delete(SECRETS, "nvdra-imex-ca", namespace=NAMESPACE)
    rack.start()
    newcomer = a_tray(rack, "bb")
    both = newcomer.wait_for(lambda spec: bool(spec.get("certificate")))["certificate"]
    assert old in both["authorities"]
    wait_until(
        "both authorities",
        lambda: rack.spec("a")["certificate"]["authorities"] == both["authorities"],
    )
    assert certificate(rack) == before
    new = x509.load_pem_x509_certificates(both["authorities"].encode())[0]
    certificate(rack, "bb").verify_directly_issued_by(new)


def test_certificate_expiry_is_a_metric(rack: Rack):
    a_tray(rack)
    rack.settle()
    text = generate_latest(rack.replicas[0].manager.registry).decode()
    name = "nvdra_controller_certificate_expiry_timestamp_seconds"
    expiries = dict(re.findall(rf'{name}{{certificate="(ca|node)"}} (\S+)', text))
    assert float(expiries["node"]) == certificate(rack).not_valid_after_utc.timestamp()
    ca = x509.load_pem_x509_certificate(rack.spec("a")["certificate"]["authorities"].encode())
    assert float(expiries["ca"]) == ca.not_valid_after_utc.timestamp()
