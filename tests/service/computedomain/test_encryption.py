"""IMEX peers authenticate each other by certificates."""

from __future__ import annotations

import stat
from functools import partial

import pytest

from nvdra_core.api.fabric import slot_name
from tests.lib.pki import Authority
from tests.lib.waits import wait_until
from tests.service.computedomain.test_channels import peers_of

pytestmark = [pytest.mark.sim, pytest.mark.timeout(300)]


def sign(rack, tray, authority):
    request = wait_until(
        "a request for a certificate",
        lambda: tray.status().get("imex", {}).get("certificateRequest"),
    )
    fabric = tray.root.profile.fabric
    name = slot_name(f"{fabric.cluster_uuid}.{fabric.clique_id}", tray.index)
    rack.certificates[tray.name] = {
        "certificate": authority.sign(request, name),
        "authorities": authority.pem,
        "notAfter": "2030-01-01T00:00:00Z",
    }
    rack.assign()


def test_peers_connect_after_certificates_are_signed(make_rack):
    rack = make_rack(2)
    authority = Authority()
    uid = rack.domain("a")
    for tray in rack.trays:
        tray.start(imexEncryption="required")
    for tray in rack.trays:
        tray.register()
        rack.claim(f"c{tray.index}", tray, uid)
    rack.trays[0].wait_for_error("c0", "WaitingForCertificate")
    for tray in rack.trays:
        sign(rack, tray, authority)
        assert tray.prepare(f"c{tray.index}").errors == {}
    for tray in rack.trays:
        wait_until(f"{tray.name} is connected", partial(peers_of, tray, [1]))
    key = rack.trays[0].home / "state/imex/tls/key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert "PRIVATE" not in str(rack.get("tray-0"))


def test_peer_of_another_authority_is_refused(make_rack):
    rack = make_rack(2)
    uid = rack.domain("a")
    for tray in rack.trays:
        tray.start(imexEncryption="required")
        tray.register()
        rack.claim(f"c{tray.index}", tray, uid)
        sign(rack, tray, Authority(f"CA of {tray.name}"))
        assert tray.prepare(f"c{tray.index}").errors == {}
    wait_until(
        "the missing peer",
        lambda: (
            [d["reason"] for d in rack.trays[0].status().get("domains", [])] == ["PeersMissing"]
        ),
    )
    for tray in rack.trays:
        wait_until(f"{tray.name} is alone", partial(peers_of, tray, [0]))


def test_new_certificate_is_loaded_without_a_restart(make_rack):
    rack = make_rack(1)
    [tray] = rack.trays
    tray.start(imexEncryption="required")
    tray.register()
    rack.claim("c0", tray, rack.domain("a"))
    sign(rack, tray, Authority("first"))
    assert tray.prepare("c0").errors == {}
    before = tray.imex()["InvocationID"]
    sign(rack, tray, Authority("second"))
    log = tray.root.path / "run/nvsim/imex.log"
    wait_until("nvidia-imex reloads", lambda: "reloading certificates" in log.read_text())
    assert tray.imex()["InvocationID"] == before
