"""The generated messages are what proto/ says, and parse each other where the contract says so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from nvdra_node.rpc.messages import (
    dra_health_v1_pb2,
    dra_health_v1alpha1_pb2,
    dra_v1_pb2,
    dra_v1beta1_pb2,
    pluginregistration_v1_pb2,
)

ROOT = Path(__file__).resolve().parents[3]


def test_generated_code_is_up_to_date() -> None:
    argv = [sys.executable, str(ROOT / "proto" / "generate.py"), "--check"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_proto_packages_match_kubelet() -> None:
    assert pluginregistration_v1_pb2.DESCRIPTOR.package == "pluginregistration"
    assert dra_v1_pb2.DESCRIPTOR.package == "k8s.io.kubelet.pkg.apis.dra.v1"
    assert dra_v1beta1_pb2.DESCRIPTOR.package == "k8s.io.kubelet.pkg.apis.dra.v1beta1"
    assert (dra_health_v1_pb2.DESCRIPTOR.package, dra_health_v1alpha1_pb2.DESCRIPTOR.package) == (
        "v1",
        "v1alpha1",
    )


def test_claim_wire_format_matches_kubelet() -> None:
    claim = dra_v1_pb2.Claim(namespace="a", uid="b", name="c")
    assert claim.SerializeToString() == b"\n\x01a\x12\x01b\x1a\x01c"


def test_absent_share_id_differs_from_empty() -> None:
    assert dra_v1_pb2.Device().SerializeToString() == b""
    assert dra_v1_pb2.Device(share_id="").SerializeToString() == b"\x2a\x00"


def test_v1beta1_bytes_parse_as_v1() -> None:
    sent = dra_v1beta1_pb2.NodePrepareResourcesResponse()
    sent.claims["u"].devices.add(request_names=["r"], pool_name="p", device_name="d")
    seen = dra_v1_pb2.NodePrepareResourcesResponse.FromString(sent.SerializeToString())
    assert seen.claims["u"].devices[0].device_name == "d"
