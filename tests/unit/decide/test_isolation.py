"""Another isolation waits until nothing of the old one is left; numbers of a running IMEX do not change."""

from __future__ import annotations

import pytest

from nvdra_cluster.decide import isolation
from nvdra_core.api import ComputeDomainAssignment, Isolation
from tests.unit.decide.views import BY_CHANNEL, BY_HOST, NOW, NUMBERS, SETTINGS, a_domain

OF_CHANNEL = ComputeDomainAssignment(isolation=Isolation.CHANNEL, port=24000, channel=1)
OF_HOST = ComputeDomainAssignment(isolation=Isolation.DOMAIN, port=0, channel=0)


@pytest.mark.parametrize(
    ("wanted", "recorded", "found"),
    [
        (SETTINGS, [], Isolation.DOMAIN),
        (BY_CHANNEL, [], Isolation.CHANNEL),
        (BY_CHANNEL, [NUMBERS], Isolation.DOMAIN),
        (SETTINGS, [OF_CHANNEL], Isolation.CHANNEL),
        (BY_CHANNEL, [NUMBERS, OF_CHANNEL], Isolation.CHANNEL),
        (BY_CHANNEL, [OF_HOST], Isolation.CHANNEL),
        (BY_HOST, [OF_CHANNEL], Isolation.DOMAIN),
    ],
)
def test_old_one_is_kept_while_all_that_lives_is_of_it(wanted, recorded, found):
    assert isolation.in_force(wanted, recorded).isolation is found


def test_isolation_events_are_limited():
    domains = [a_domain(f"u{number}", name=f"d{number}") for number in range(100)]
    writes = isolation.events_for(domains, isolation.message(BY_CHANNEL, SETTINGS), NOW)
    assert len(writes) == isolation.EVENT_LIMIT
    assert "isolation=domain" in writes[0].body["message"]
