"""Waiting in the tests of the Kubernetes client, and asking a server that is not going to answer."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from nvdra_core.clock import Deadline, SystemClock
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import Client
from nvdra_core.kube.resources import NAMESPACES

PATIENCE_S = 60.0
"""Far above what anything takes, on a busy machine too."""


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition; fails when it does not come true."""
    ends_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < ends_s, "it did not happen"
        time.sleep(0.01)


def refusal(client: Client, text: str) -> str:
    """Why the client cannot speak with its server, with ``text`` in it. A short deadline may end on a busy machine
    before the client knows.
    """
    for timeout_s in (0.2, 1.0, 5.0, 25.0):
        with pytest.raises(ApiError) as caught:
            client.get(NAMESPACES, "default", deadline=Deadline(timeout_s, SystemClock()))
        assert caught.value.status == 0
        if text in str(caught.value):
            return str(caught.value)
    raise AssertionError(f"{caught.value} does not say {text!r}")
