"""Reading a claim: identity, own devices only, and errors that name path and value."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvdra_core.errors import ApiError, ClaimError, DeadlineError, NvdraError, StaleClaimError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.claim import Claim, ClaimRef, ClaimUID, ConfigSource
from nvdra_node.kubeletplugin.claims import reader
from tests.fakes.clock import FakeClock

DRIVER, NODE = "gpu.nvidia.com", "node-1"
REF = ClaimRef("ns", "train", ClaimUID("uid-1"))
ANNOTATIONS = {"notes.example.com/all": "x" * 1000, "resource.kubernetes.io/pod-claim-name": "gpus"}


def opaque(source: str, driver: str = DRIVER, **more: Any) -> dict[str, Any]:
    return {"source": source, "opaque": {"driver": driver, "parameters": {"kind": source}}, **more}


def an_allocated_claim() -> dict[str, Any]:
    return {
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaim",
        "metadata": {"name": "train", "namespace": "ns", "uid": "uid-1", "annotations": ANNOTATIONS},
        "status": {
            "allocation": {
                "devices": {
                    "results": [
                        {"request": "g/big", "driver": DRIVER, "pool": NODE, "device": "gpu-0"},
                        {"request": "nic", "driver": "nic.example.com", "pool": "x", "device": "eth0"},
                    ],
                    "config": [
                        opaque("FromClaim", requests=["g"]),
                        opaque("FromClaim", driver="nic.example.com"),
                        opaque("FromClass"),
                    ],
                }
            }
        },
    }  # fmt: skip


def decode(obj: dict[str, Any]) -> Claim:
    return reader.decode(obj, REF, driver=DRIVER, node=NODE)


def changed(path: str, value: Any) -> dict[str, Any]:
    """The claim with one value replaced (None: removed)."""
    obj = copy.deepcopy(an_allocated_claim())
    *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    target: Any = obj
    for key in keys:
        target = target[key]
    if value is None:
        target.pop(*((last,) if isinstance(target, list) else (last, None)))
    else:
        target[last] = value
    return obj


DEVICES = "status.allocation.devices"


def test_claim_has_own_results_and_configs_class_first() -> None:
    claim = decode(an_allocated_claim())
    (result,) = claim.results
    assert (result.device, result.request, result.main_request) == ("gpu-0", "g/big", "g")
    assert (result.admin_access, result.share_id, result.consumed_capacity) == (False, None, {})
    assert [(c.source, c.index, c.requests) for c in claim.configs] == [
        (ConfigSource.CLASS, 2, ()),
        (ConfigSource.CLAIM, 0, ("g",)),
    ]
    assert claim.annotations == {"resource.kubernetes.io/pod-claim-name": "gpus"}


def test_share_and_admin_access_are_read() -> None:
    more = {
        "shareID": "s-1",
        "adminAccess": True,
        "consumedCapacity": {"memory": "10Gi", "shares": 1},
    }
    obj = an_allocated_claim()
    obj["status"]["allocation"]["devices"]["results"][0].update(more)
    (result,) = decode(obj).results
    assert (result.share_id, result.admin_access) == ("s-1", True)
    assert result.consumed_capacity == {"memory": "10Gi", "shares": "1"}


def test_unknown_fields_are_ignored() -> None:
    obj = changed(f"{DEVICES}.results.0.skipNodeOperations", ["*"])
    obj["status"]["allocation"]["later"] = obj["spec"] = {"x": [1]}
    assert decode(obj).results[0].device == "gpu-0"


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("metadata.uid", "uid-2", "was replaced by one of the same name (uid uid-2)"),
        ("status", None, "is not allocated"),
        ("status.allocation", None, "is not allocated"),
        (f"{DEVICES}.results.0.pool", "node-2", "pool node-2, and this node's pool is node-1"),
        (f"{DEVICES}.results.0.driver", "other.example.com", "no device of gpu.nvidia.com"),
    ],
)
def test_claim_not_allocated_to_this_node_is_stale(path: str, value: Any, message: str) -> None:
    with pytest.raises(StaleClaimError) as caught:
        decode(changed(path, value))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (f"{DEVICES}.results", None, f"{DEVICES}: object missing required field `results`"),
        (f"{DEVICES}.results.0", 7, f"{DEVICES}.results[0]: expected `object`, got `int` (7)"),
        (
            f"{DEVICES}.results.0.device",
            7,
            f"{DEVICES}.results[0].device: expected `str`, got `int` (7)",
        ),
        (
            f"{DEVICES}.results.0.device",
            "",
            f'{DEVICES}.results[0].device: expected `str` of length >= 1 ("")',
        ),
        (
            f"{DEVICES}.results.0.adminAccess",
            "yes",
            'adminAccess: expected `bool | null`, got `str` ("yes")',
        ),
        (f"{DEVICES}.config.0.source", "FromMars", "config[0].source: 'FromMars' is not known"),
        (
            f"{DEVICES}.config.1.opaque",
            None,
            "config[1].opaque: missing; this release knows opaque",
        ),
        (
            f"{DEVICES}.config.0.requests",
            "g",
            'config[0].requests: expected `array | null`, got `str` ("g")',
        ),
        (
            f"{DEVICES}.config.0.opaque.parameters",
            [],
            "parameters: expected `object`, got `array` ([])",
        ),
    ],
)
def test_wrong_field_is_named_by_path_and_value(path: str, value: Any, message: str) -> None:
    with pytest.raises(ClaimError) as caught:
        decode(changed(path, value))
    assert message in str(caught.value) and "claim ns/train" in str(caught.value)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=4,
)
PATHS = st.sampled_from(
    ["metadata", "metadata.uid", "status", "status.allocation", DEVICES, f"{DEVICES}.results",
     f"{DEVICES}.results.0", f"{DEVICES}.results.0.shareID", f"{DEVICES}.results.0.consumedCapacity",
     f"{DEVICES}.config", f"{DEVICES}.config.0", f"{DEVICES}.config.0.opaque"]
)  # fmt: skip


@given(PATHS, JSON)
def test_any_json_gives_a_claim_or_our_error(path: str, value: Any) -> None:
    with contextlib.suppress(NvdraError):
        decode(changed(path, value))


class Api:
    """Answers one claim, or an error."""

    def __init__(self, reply: dict[str, Any] | ApiError) -> None:
        self.reply = reply
        self.requests = 0

    def get_claim(
        self, namespace: str, name: str, *, deadline: Deadline | None = None
    ) -> dict[str, Any]:
        assert (namespace, name) == ("ns", "train") and deadline is not None
        self.requests += 1
        if isinstance(self.reply, ApiError):
            raise self.reply
        return self.reply


class Outcomes:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def claim_read(self, outcome: str = "success") -> None:
        self.seen.append(outcome)


def test_fetch_is_one_request() -> None:
    api, outcomes = Api(an_allocated_claim()), Outcomes()
    claim = reader.ClaimReader(api, DRIVER, NODE, outcomes).fetch(REF, Deadline(5, FakeClock()))
    assert claim.results[0].device == "gpu-0"
    assert (api.requests, outcomes.seen) == (1, ["success"])


def test_only_a_deleted_claim_is_stale() -> None:
    not_found = ApiError("not found", status=404, api_reason="NotFound")
    for error, expected in (
        (not_found, StaleClaimError),
        (ApiError("no such path", status=404), ApiError),
        (ApiError("forbidden", status=403), ApiError),
        (ApiError("no reply", status=0), ApiError),
    ):
        outcomes = Outcomes()
        with pytest.raises(expected):
            reader.ClaimReader(Api(error), DRIVER, NODE, outcomes).fetch(
                REF, Deadline(5, FakeClock())
            )
        assert outcomes.seen == [expected.reason]


def test_fetch_after_the_deadline_makes_no_request() -> None:
    api = Api(an_allocated_claim())
    with pytest.raises(DeadlineError):
        reader.ClaimReader(api, DRIVER, NODE, Outcomes()).fetch(REF, Deadline(0, FakeClock()))
    assert api.requests == 0
