"""The collection on a small rack of real systemd hosts: each promise of a rollout, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.beds.cluster.marks import needs_cluster
from tests.beds.rack import releases
from tests.beds.rack.hosts import Rack
from tests.rack.show import STEPS, Show

pytestmark = [*needs_cluster(timeout_s=1800), pytest.mark.packages]


@pytest.fixture(scope="module")
def show(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Show]:
    """Three hosts in two racks, and the packages."""
    made = releases.make(tmp_path_factory.mktemp("packages") / "made")
    with Rack.up("rack-test", hosts=3, racks=2) as rack:
        yield Show(rack, made)


@pytest.mark.parametrize("step", STEPS)
def test_promise_is_kept(show: Show, step: str) -> None:
    """In this order: each step begins where the one before ended."""
    print(STEPS[step](show))
