"""Writes for one domain: what is missing, in order, nothing when all is well, and teardown from any state."""

from __future__ import annotations

from typing import Any

import pytest

from nvdra_cluster.decide.domain import lifecycle
from nvdra_cluster.decide.model import FINALIZER, CliqueView, ConfigView, DomainSnapshot, Problem
from nvdra_cluster.decide.writes import Create, Delete, Merge, Write
from nvdra_cluster.settings import FabricSettings
from nvdra_core.api import CliqueDaemon, ComputeDomainState
from tests.unit.decide.views import (
    BY_HOST,
    CLIQUE,
    NOW,
    SETTINGS,
    a_claim,
    a_domain,
    a_fabric_node,
    a_member,
    a_snapshot,
    a_spec,
    a_template,
)

CLIQUE_NAME = f"u1.{CLIQUE}"


def reconcile(snapshot: DomainSnapshot, settings: FabricSettings = SETTINGS) -> list[Write]:
    """The writes, less events."""
    writes = lifecycle.reconcile(snapshot, settings, NOW)
    return [write for write in writes if write.resource.plural != "events"]


def settled(snapshot: DomainSnapshot) -> DomainSnapshot:
    """With the status that the domain would be given."""
    from dataclasses import replace

    from nvdra_cluster.decide.domain import status

    found = status.decide(snapshot, SETTINGS, NOW)
    return replace(snapshot, domain=replace(snapshot.domain, status=found))


def kinds(writes: list[Write]) -> list[tuple[str, str]]:
    def plural(write: Write) -> str:
        resource = write.resource
        return resource.plural + (f"/{resource.subresource}" if resource.subresource else "")

    return [(type(write).__name__, plural(write)) for write in writes]


def a_clique(**fields: object) -> CliqueView:
    daemon = CliqueDaemon(
        node_name="tray-a", ip_address="10.0.0.6", clique_id=CLIQUE, index=0,
        status=ComputeDomainState.READY,
    )  # fmt: skip
    known = {"name": CLIQUE_NAME, "uid": "q1", "domain_uid": "u1", "clique_id": CLIQUE}
    return CliqueView(**{**known, "daemons": (daemon,), **fields})  # type: ignore[arg-type]


class TestNewDomain:
    def test_costs_three_writes(self):
        new = a_snapshot(a_domain(finalizers=()), templates=())
        assert kinds(reconcile(new)) == [
            ("Merge", "computedomains"),
            ("Create", "resourceclaimtemplates"),
            ("Merge", "computedomains/status"),
        ]

    def test_keeps_other_finalizers_and_guards_list_by_version(self):
        patch = reconcile(a_snapshot(a_domain(finalizers=("x/y",))))[0]
        assert isinstance(patch, Merge)
        assert patch.patch["metadata"] == {
            "uid": "u1", "resourceVersion": "7", "finalizers": ["x/y", FINALIZER],
        }  # fmt: skip

    def test_settled_costs_none(self):
        assert reconcile(settled(a_snapshot())) == []

    def test_that_cannot_be_served_gets_only_status(self):
        bad = a_snapshot(a_domain(spec=None, problem="no channel", finalizers=()), templates=())
        assert kinds(reconcile(bad)) == [("Merge", "computedomains/status")]


class TestTemplate:
    def body(self, settings: FabricSettings = SETTINGS, **spec: object) -> dict[str, Any]:
        snapshot = a_snapshot(a_domain(spec=a_spec(**spec)), templates=())
        created = [w for w in reconcile(snapshot, settings) if isinstance(w, Create)]
        return created[0].body

    def test_is_upstreams(self):
        body = self.body()
        assert body["metadata"] == {
            "name": "train-channel",
            "namespace": "team",
            "labels": {
                "resource.nvidia.com/computeDomain": "u1",
                "resource.nvidia.com/computeDomainTarget": "Workload",
            },
            "finalizers": ["resource.nvidia.com/computeDomain"],
        }
        devices = body["spec"]["spec"]["devices"]
        assert devices["requests"] == [
            {"name": "channel", "exactly": {"deviceClassName": "compute-domain-default-channel.nvidia.com"}}
        ]  # fmt: skip
        assert devices["config"] == [
            {
                "requests": ["channel"],
                "opaque": {
                    "driver": "compute-domain.nvidia.com",
                    "parameters": {
                        "apiVersion": "resource.nvidia.com/v1beta1",
                        "kind": "ComputeDomainChannelConfig",
                        "domainID": "u1",
                        "allocationMode": "Single",
                    },
                },
            }
        ]

    def test_template_parameters_have_apply_order(self):
        """Or the server refuses each apply of the claim's status as a change of the allocation."""
        (config,) = self.body()["spec"]["spec"]["devices"]["config"]
        assert list(config["opaque"]["parameters"]) == sorted(config["opaque"]["parameters"])

    def test_gives_claims_label_that_they_are_followed_by(self):
        assert self.body()["spec"]["metadata"] == {
            "labels": {"resource.nvidia.com/computeDomain": "u1"}
        }

    def test_template_passes_allocation_mode_except_host_imex(self):
        channel = {"resourceClaimTemplate": {"name": "t"}, "allocationMode": "All"}

        def mode(settings: FabricSettings) -> str:
            config = self.body(settings, channel=channel)["spec"]["spec"]["devices"]["config"][0]
            return str(config["opaque"]["parameters"]["allocationMode"])

        assert (mode(SETTINGS), mode(BY_HOST)) == ("All", "Single")

    def test_manually_deleted_one_is_recreated(self):
        stuck = a_snapshot(templates=(a_template(is_deleting=True),))
        assert kinds(reconcile(stuck))[0] == ("Merge", "resourceclaimtemplates")
        deleted = a_snapshot(templates=())
        assert kinds(reconcile(deleted))[0] == ("Create", "resourceclaimtemplates")

    @pytest.mark.parametrize(
        "wrong",
        [a_template(name="old-name"), a_template(config=ConfigView("u1", "All")), a_template(config=ConfigView("u2", "Single"))],
        ids=["name", "mode", "domain"],
    )  # fmt: skip
    def test_not_wanted_one_is_removed(self, wrong):
        assert kinds(reconcile(a_snapshot(templates=(wrong,))))[:2] == [
            ("Merge", "resourceclaimtemplates"),
            ("Delete", "resourceclaimtemplates"),
        ]


class TestOthersTemplates:
    def test_one_without_our_finalizer_is_not_deleted(self):
        theirs = a_template(name="copy", finalizers=())
        assert kinds(reconcile(a_snapshot(templates=(theirs,))))[0] == (
            "Create", "resourceclaimtemplates",
        )  # fmt: skip
        dying = a_snapshot(a_domain(is_deleting=True), templates=(theirs,))
        assert kinds(reconcile(dying)) == [("Merge", "computedomains")]

    def test_one_of_name_right_is_as_good(self):
        theirs = a_template(finalizers=())
        assert reconcile(settled(a_snapshot(templates=(theirs,)))) == []

    def test_wrong_template_of_that_name_is_reported(self):
        theirs = a_template(finalizers=(), config=ConfigView("u2", "Single"))
        writes = reconcile(a_snapshot(templates=(theirs,)))
        assert kinds(writes) == [("Merge", "computedomains/status")]
        (write,) = writes
        assert isinstance(write, Merge)
        reasons = {c["type"]: c["reason"] for c in write.patch["status"]["conditions"]}
        assert reasons["TemplatesReady"] == "NameTaken"

    def test_one_that_we_had_begun_to_remove_goes(self):
        begun = a_template(name="old", finalizers=(), is_condemned=True)
        assert kinds(reconcile(a_snapshot(templates=(begun, a_template())))) == [
            ("Delete", "resourceclaimtemplates"),
            ("Merge", "computedomains/status"),
        ]


class TestTrouble:
    def test_what_failed_before_does_not_hide_why(self):
        problem = Problem("NameTaken", "it exists")
        taken = a_snapshot(templates=(), template_problem=problem)
        assert kinds(reconcile(taken)) == [
            ("Merge", "computedomains/status"),
            ("Create", "resourceclaimtemplates"),
        ]

    def test_events_tell_what_is_new_once(self):
        bad = a_snapshot(a_domain(spec=None, problem="no channel"), templates=())
        (event,) = [
            w for w in lifecycle.reconcile(bad, SETTINGS, NOW) if w.resource.plural == "events"
        ]
        assert isinstance(event, Create)
        assert (event.body["reason"], event.body["type"]) == ("InvalidSpec", "Warning")
        assert event.body["involvedObject"]["name"] == "train"
        assert lifecycle.reconcile(settled(bad), SETTINGS, "2027-01-01T00:00:00Z") == []


class TestCliques:
    def test_is_made_with_nodes_of_domain(self):
        (made,) = [w for w in reconcile(a_snapshot(members=(a_member(),))) if isinstance(w, Create)]
        assert made.body["metadata"] == {
            "name": CLIQUE_NAME,
            "namespace": "nvdra",
            "labels": {
                "resource.nvidia.com/computeDomain": "u1",
                "resource.nvidia.com/computeDomain.cliqueID": CLIQUE,
            },
        }
        assert made.body["daemons"] == [
            {"nodeName": "tray-a", "ipAddress": "10.0.0.6", "cliqueID": CLIQUE, "index": 0, "status": "Ready"}
        ]  # fmt: skip

    def test_right_is_left_alone(self):
        found = reconcile(settled(a_snapshot(members=(a_member(),), cliques=(a_clique(),))))
        assert found == []

    def test_follows_its_nodes_and_goes_with_last(self):
        lost = settled(a_snapshot(members=(a_member(is_lost=True),), cliques=(a_clique(),)))
        assert kinds(reconcile(lost)) == [("Merge", "computedomaincliques")]
        empty = settled(a_snapshot(cliques=(a_clique(),)))
        assert kinds(reconcile(empty)) == [("Delete", "computedomaincliques")]

    def test_has_no_nodes_without_fabric(self):
        member = a_member(a_fabric_node(clique=""))
        assert [w for w in reconcile(a_snapshot(members=(member,))) if isinstance(w, Create)] == []


class TestEnd:
    def dying(self, **fields: object) -> DomainSnapshot:
        return a_snapshot(a_domain(is_deleting=True), **fields)

    def test_template_goes_at_once_and_rest_waits_for_claims(self):
        writes = reconcile(self.dying(claims=(a_claim(),), cliques=(a_clique(),)))
        assert ("Delete", "resourceclaimtemplates") in kinds(writes)
        assert ("Merge", "computedomains") not in kinds(writes)
        assert kinds(writes)[-1] == ("Merge", "computedomains/status")

    def test_unheld_domain_loses_cliques_and_finalizer(self):
        assert kinds(reconcile(self.dying(templates=(), cliques=(a_clique(),)))) == [
            ("Delete", "computedomaincliques"),
            ("Merge", "computedomains"),
        ]

    def test_only_our_finalizer_goes(self):
        domain = a_domain(is_deleting=True, finalizers=("x/y", FINALIZER))
        (patch,) = reconcile(a_snapshot(domain, templates=()))
        assert isinstance(patch, Merge)
        assert patch.patch["metadata"]["finalizers"] == ["x/y"]

    def test_domain_with_foreign_finalizers_is_left_alone(self):
        assert (
            reconcile(a_snapshot(a_domain(is_deleting=True, finalizers=("x/y",)), templates=()))
            == []
        )

    def test_invalid_domain_can_be_deleted(self):
        domain = a_domain(is_deleting=True, spec=None, problem="bad")
        assert kinds(reconcile(a_snapshot(domain, templates=(), assignment=None))) == [
            ("Merge", "computedomains")
        ]

    def test_missing_template_does_not_hang_deletion(self):
        assert kinds(reconcile(self.dying(templates=()))) == [("Merge", "computedomains")]

    def test_templates_are_deleted_by_uid(self):
        deleted = [w for w in reconcile(self.dying()) if isinstance(w, Delete)]
        assert [w.uid for w in deleted] == ["t1"]
