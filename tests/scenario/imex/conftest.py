"""The node whose supervisor a test drives."""

from __future__ import annotations

import pytest

from tests.beds.memory.imex_node import ImexNode


@pytest.fixture
def node() -> ImexNode:
    return ImexNode()
