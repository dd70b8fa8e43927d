"""A stolen node stays one node: with the true credentials, on a real API server, every attack is answered 403.

Beside it stands what the node's own code writes, which must go on: policies that block a node's work are no use.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.beds.cluster.artifacts.programs import KUBERNETES, NEWEST
from tests.beds.cluster.marks import needs_cluster
from tests.beds.services.attackbed import ADMIN, SIGNS, Attack, World, a_world
from tests.service.realapi import attacks, claimattacks

pytestmark = needs_cluster(timeout_s=300, has_nodes=False)

ATTACKS = attacks.every()
ON_STATUS = list(claimattacks.of_claim_statuses())
INVALID, GRANULAR = 422, 'requires resource=\\"resourceclaims/'
"""From 1.36 on the API server checks rights to single fields of a claim's status before policies."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """After all attacks everything is as it was."""
    with a_world("stolen", tmp_path_factory.mktemp("world")) as made:
        before = made.state()
        yield made
        assert made.state() == before


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with a_world("stolen-oldest", tmp_path_factory.mktemp("oldest"), min(KUBERNETES)) as made:
        yield made


def assert_refused(world: World, attack: Attack) -> None:
    request = attack.make(world)
    if attack.is_valid:
        accepted, text = world.send(ADMIN, request, is_dry=True)
        assert accepted < 300, f"an administrator is refused, too: {text}"
    code, text = world.send(attack.by, request)
    if code == INVALID and world.cluster.kubernetes == NEWEST:
        assert GRANULAR in text, text
    else:
        assert code == 403, text
        assert any(sign in text for sign in SIGNS[attack.held_by]), text


@pytest.mark.parametrize("attack", ATTACKS, ids=[attack.id for attack in ATTACKS])
def test_attack_from_stolen_node_is_answered_403(world: World, attack: Attack) -> None:
    assert_refused(world, attack)


@pytest.mark.parametrize("attack", ON_STATUS, ids=[attack.id for attack in ON_STATUS])
def test_attack_on_status_is_answered_403_by_policy_alone(oldest: World, attack: Attack) -> None:
    assert_refused(oldest, attack)
