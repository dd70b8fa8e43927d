"""Fixtures of the scenario tests."""

import pytest

from tests.beds.memory.claim_world import World


@pytest.fixture
def world() -> World:
    """A simulated node with nothing prepared."""
    return World()
