"""Waits of the tests of the Kubernetes client."""

from __future__ import annotations

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import NAMESPACES
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.kube.client import Client

PATIENCE_S = 60.0
"""Far above what anything takes, on a busy machine too."""


def assert_unreachable(client: Client) -> None:
    """The client tries in vain for a moment."""
    with pytest.raises(ApiError, match="cannot reach the API server") as caught:
        client.get(NAMESPACES, "default", deadline=Deadline(0.2, SystemClock()))
    assert caught.value.status == 0
