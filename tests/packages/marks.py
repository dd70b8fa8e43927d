"""The marks of tests that make packages and install them."""

import pytest

from tests.beds.cluster import capability
from tests.beds.cluster.marks import is_required


def needs_packages(*, timeout_s: int = 900) -> list[pytest.MarkDecorator]:
    """What a module assigns to ``pytestmark``. They carry the mark ``cluster``, too: like it they need root, and fail
    where it is required.
    """
    reason = None if is_required() else capability.why_not()
    return [
        pytest.mark.cluster,
        pytest.mark.packages,
        pytest.mark.timeout(timeout_s),
        pytest.mark.skipif(reason is not None, reason=reason or ""),
    ]
