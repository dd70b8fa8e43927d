"""A node's own credential on a host: what goes wrong with it, what an operator sees then, and what he does about it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator

import pytest

from tests.beds.cluster.layout import BRIDGE_ADDRESS
from tests.beds.cluster.marks import needs_cluster
from tests.beds.rack import credential, releases
from tests.beds.rack.hosts import Rack
from tests.beds.rack.playbooks import Run, play
from tests.lib.objects import obj
from tests.lib.waits import wait_until

pytestmark = [*needs_cluster(timeout_s=1200), pytest.mark.packages]

HOST, OTHER = "rack1-01", "rack1-99"
GPUS = 4
PATIENCE_S = 240.0
DUE_S = 150.0
"""A quarter of ten minutes, the shortest life that the API server gives."""
LATE_S = 400.0
"""A test that begins so late in that life would see the end of it."""


class Operator:
    """One host, and what is done to it."""

    def __init__(self, rack: Rack, packages: releases.Releases) -> None:
        self.rack = rack
        self.packages = packages
        self.node = rack.hosts[HOST]
        self.make_old()

    def make_old(self) -> None:
        """A token that is good and soon to be renewed."""
        self.old, self.old_since_s = credential.make(self.rack, HOST, "10m"), time.monotonic()

    def site(self, *options: str, **changes: object) -> Run:
        """Roll out, with a credential for each node unless ``changes`` say otherwise."""
        known = {"nvdra_package_dir": self.packages.this, **credential.variables(self.rack)}
        return play(self.rack, "site", *options, variables={**known, **changes})

    @property
    def token(self) -> str:
        return credential.token(self.rack, HOST)

    def put(self, text: str) -> None:
        """Put another token in the place of the one that is there."""
        self.node.path(credential.TOKEN).write_text(text)

    def renew(self) -> str:
        return credential.renew(self.rack, HOST)

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a shell script on the host."""
        return self.node.run(["sh", "-ec", script], check=check).stdout.strip()

    def works(self) -> bool:
        """Whether the API server takes the token, and the service has published."""
        return not credential.problems(self.rack, HOST) and bool(self.rack.bed.slices())


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    made = releases.make(tmp_path_factory.mktemp("packages") / "made")
    with Rack.up("credential", hosts=1, racks=1) as rack:
        credential.set_up(rack)
        other = obj("Node", OTHER)
        rack.cluster.apply(json.dumps(other))
        yield Operator(rack, made)


@pytest.fixture(scope="module")
def installed(operator: Operator) -> Operator:
    done = operator.site()
    assert done.status == 0, done.text
    operator.rack.bed.wait_for_devices(GPUS, timeout_s=PATIENCE_S)
    return operator


@pytest.fixture
def working(installed: Operator) -> Operator:
    """The host with a credential of its own that works."""
    if not installed.works():
        done = installed.site()
        assert done.status == 0, done.text
    assert installed.works()
    return installed


@pytest.fixture
def due(working: Operator) -> Operator:
    """The host with a token that works and is to be renewed."""
    if time.monotonic() - working.old_since_s > LATE_S:
        working.make_old()
    time.sleep(max(0.0, DUE_S - (time.monotonic() - working.old_since_s)))
    working.put(working.old)
    return working


def test_rollout_without_right_to_create_tokens_changes_nothing(operator: Operator) -> None:
    done = operator.site(nvdra_service_account="nvdra/nobody")
    assert done.status != 0
    assert "Nothing was changed on any host" in done.text
    assert 'serviceaccounts "nobody" not found' in done.text.replace("\\", "")
    assert operator.rack.version(HOST) == ""


def test_rollout_to_host_that_is_no_node_fails_with_reason(operator: Operator) -> None:
    done = operator.site(nvdra_node_name="nowhere")
    assert done.status != 0
    assert 'nodes "nowhere" not found' in done.text.replace("\\", "")
    assert not operator.node.path("/etc/nvdra/kubeconfig").exists()


def test_node_cannot_request_foreign_tokens(working: Operator) -> None:
    wait_until(
        "the policies are in force",
        lambda: not credential.foreign_tokens(working.rack, HOST, OTHER),
        PATIENCE_S,
    )


def test_services_start_the_renewal_timer(working: Operator) -> None:
    assert working.sh("systemctl is-active nvdra-credential.timer") == "active"
    assert working.sh("systemctl show -P NextElapseUSecRealtime nvdra-credential.timer")


def test_fresh_token_is_not_renewed_and_not_logged(working: Operator) -> None:
    before = working.token
    assert working.renew() == ""
    assert working.token == before
    assert working.sh(f"systemctl show -P Result {credential.RENEWAL}") == "success"


def test_recreated_node_gets_token_with_next_rollout(working: Operator) -> None:
    working.rack.cluster.kubectl("delete", "node", HOST)
    working.sh("systemctl restart kubelet")
    client = working.rack.cluster.client
    wait_until("the Node", lambda: client.says_ok(f"/api/v1/nodes/{HOST}"), PATIENCE_S)
    working.node.wait_until_ready(PATIENCE_S)
    # The API server remembers for some seconds whom it has let in.
    wait_until("refused", lambda: credential.problems(working.rack, HOST), PATIENCE_S, interval_s=1)
    done = working.site()
    assert done.status == 0, done.text
    working.rack.bed.wait_for_devices(GPUS, timeout_s=PATIENCE_S)
    assert working.works()
    working.make_old()


def test_rollout_with_unusable_credential_restores_old_one(working: Operator) -> None:
    before = working.node.path("/etc/nvdra/kubeconfig").read_text()
    done = working.site(nvdra_api_server="https://10.77.255.254:6443", nvdra_gate_timeout_s=20)
    assert done.status != 0
    assert "ROLLED BACK" in done.text
    assert working.node.path("/etc/nvdra/kubeconfig").read_text() == before
    working.rack.bed.wait_for_devices(GPUS, timeout_s=PATIENCE_S)
    assert working.works()


def test_renewed_token_is_used_without_restart(due: Operator) -> None:
    started = "systemctl show -P ActiveEnterTimestampMonotonic nvdra-gpu-plugin"
    before = due.sh(started)
    assert f"token of node {HOST} renewed" in due.renew()
    assert due.token != due.old
    assert due.works()
    assert due.sh(started) == before


def no_rights(operator: Operator) -> Callable[[], object]:
    kubectl, binding = operator.rack.cluster.kubectl, ("rolebinding", "nvdra-node")
    kubectl("delete", *binding, "-n", credential.PLACE)
    return lambda: credential.set_up(operator.rack)


def no_server(operator: Operator) -> Callable[[], object]:
    operator.sh(f"ip route add prohibit {BRIDGE_ADDRESS}/32")
    return lambda: operator.sh(f"ip route del prohibit {BRIDGE_ADDRESS}/32")


def full_disk(operator: Operator) -> Callable[[], object]:
    directory = credential.TOKEN.rpartition("/")[0]
    operator.sh(
        f"cp -a {directory} /run/kept; mount -t tmpfs -o size=16k,mode=700 full {directory}\n"
        f"cp -a /run/kept/. {directory}; dd if=/dev/zero of={directory}/filler bs=4k 2>/dev/null || true"
    )
    return lambda: operator.sh(f"umount {directory}; rm -r /run/kept")


def no_account(operator: Operator) -> Callable[[], object]:
    operator.put(operator.old.rpartition(".")[0] + ".c2lnbmF0dXJl")
    return lambda: operator.put(operator.old)


def killed_before(operator: Operator) -> Callable[[], object]:
    directory, _, name = credential.TOKEN.rpartition("/")
    operator.sh(f"mkdir {directory}/.{name}.tmp")
    return lambda: operator.sh(f"rmdir {directory}/.{name}.tmp")


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (no_rights, ("nvdra/nvdra-node may not renew its own token", "chart nvdra")),
        (no_server, ("token not renewed", "h left", "15 minutes")),
        (full_disk, ("free some space",)),
        (no_account, ("rejects the token", "playbook nvdra.node.site")),
        (killed_before, ("cannot remove",)),
    ],
)
def test_failed_renewal_is_explained_and_keeps_token(
    due: Operator, break_it: Callable[[Operator], Callable[[], object]], words: tuple[str, ...]
) -> None:
    # Its own runs would be seen as "activating" in between.
    due.sh("systemctl stop nvdra-credential.timer")
    mend = break_it(due)
    try:
        before = due.token
        said = due.renew()
        assert [word for word in words if word not in said] == [], said
        assert due.token == before
        assert "eyJ" not in said
        failed = due.sh(
            "systemctl list-units --failed --plain --no-legend nvdra-credential.service"
        )
        assert failed.startswith(credential.RENEWAL), "an operator finds it among the failed units"
    finally:
        mend()
        due.sh("systemctl start nvdra-credential.timer")
    assert f"token of node {HOST} renewed" in due.renew()
    assert due.works()


def test_damaged_token_is_replaced_by_next_rollout(working: Operator) -> None:
    working.put("half of a tok")
    assert "playbook nvdra.node.site" in working.renew()
    done = working.site()
    assert done.status == 0, done.text
    assert working.works()


def test_token_that_could_not_be_renewed_fails_the_rollout(working: Operator) -> None:
    """The chart lets nodes' tokens live a week."""
    working.put("half of a tok")
    done = working.site(nvdra_token_duration_h=169)
    assert done.status != 0
    assert "ROLLED BACK" in done.text
    assert "node.tokenMaxHours" in done.text
    done = working.site()
    assert done.status == 0, done.text
    assert working.works()


def test_return_to_kubelet_credential_leaves_no_token(working: Operator) -> None:
    done = working.site(nvdra_credential="kubelet")
    assert done.status == 0, done.text
    assert not working.node.path("/etc/nvdra/kubeconfig").exists()
    assert not working.node.path(credential.TOKEN).exists()
    assert working.sh("ls /etc/nvdra | grep kubeconfig || true") == ""
    working.rack.bed.wait_for_devices(GPUS, timeout_s=PATIENCE_S)
    assert working.renew() == "", "the unit's condition keeps it from running"
    done = working.site(nvdra_credential="kubelet")
    assert (done.status, done.hosts_with("changed")) == (0, [])
