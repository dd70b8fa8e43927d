"""Records with a valid checksum and any content: each call returns or raises an NvdraError."""

from __future__ import annotations

import contextlib
import copy
import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nvdra_core.errors import NvdraError
from nvdra_node.kubeletplugin.claims.sweep import Sweeper, SweepTimes
from tests.beds.memory.gpu_node import GpuNode, a_claim
from tests.lib.records import TIME_SLICED, record_file

CLAIM = a_claim(devices=("gpu-0", "gpu-1"), configs=[TIME_SLICED])
OTHER = a_claim(uid="c2", devices=("gpu-2",))

Place = tuple[Any, ...]

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


def written_record() -> Any:
    node = GpuNode()
    node.prepare(CLAIM)
    data = node.files.read(node.state / "claims/c1.json") or b""
    return json.loads(data)["record"]


def places(value: Any, path: Place = ()) -> list[Place]:
    """Paths of all values inside, except the claim's UID, which names the file."""
    keys = (
        value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    )
    found: list[Place] = []
    for key in keys:
        if (*path, key) != ("uid",):
            found += [(*path, key), *places(value[key], (*path, key))]
    return found


RECORD = written_record()
PLACES = places(RECORD)


def node_with(body: Any, schema: int = 1) -> GpuNode:
    """A machine that starts with this record."""
    node = GpuNode()
    node.prepare(OTHER)
    node.files.replace(node.state / "claims/c1.json", record_file(body, schema))
    node.restart()
    return node


def use(node: GpuNode) -> None:
    """Everything that uses a record; only an NvdraError may be raised, and the other claim is not affected."""
    node.claims.add(CLAIM)
    times = SweepTimes(period_s=1, grace_s=0)
    for work in (
        lambda: node.transaction.prepare(CLAIM.ref, node.deadline(1)),
        lambda: [node.transaction.renew_file(r, node.deadline(1)) for r in node.deps.records.all()],
        lambda: Sweeper(node.transaction, node.deps, times).run_once(),
        lambda: node.unprepare(CLAIM),
    ):
        with contextlib.suppress(NvdraError):
            work()
    node.prepare(OTHER)
    assert node.cdi_spec("c2") is not None


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PLACES), ANY_JSON)
def test_any_json_in_a_record_gives_a_reply_or_an_error(place: Place, value: Any) -> None:
    body = copy.deepcopy(RECORD)
    inner = body
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    use(node_with(body))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PLACES), ANY_JSON)
def test_any_json_in_newer_record_gives_reply_or_error(place: Place, value: Any) -> None:
    body = copy.deepcopy(RECORD)
    inner = body
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    use(node_with(body, schema=9))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(PLACES))
def test_any_missing_field_gives_a_reply_or_an_error(place: Place) -> None:
    body = copy.deepcopy(RECORD)
    inner = body
    for key in place[:-1]:
        inner = inner[key]
    del inner[place[-1]]
    use(node_with(body))
