"""What leanproto is for: protobuf without its idle half where that works, and protobuf in any case."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import sys
{setup}
from nvdra_node.rpc import leanproto
from nvdra_node.rpc.messages import dra_v1
assert leanproto.is_lean is {is_lean}, leanproto.is_lean
assert ("google.protobuf.text_format" in sys.modules) is not leanproto.is_lean
sent = dra_v1.NodePrepareResourcesResponse()
sent.claims["uid"].devices.add(pool_name="n", cdi_device_ids=["a", "b"])
got = dra_v1.NodePrepareResourcesResponse.FromString(sent.SerializeToString())
assert list(got.claims["uid"].devices[0].cdi_device_ids) == ["a", "b"]
from google.protobuf import text_format
assert 'pool_name: "n"' in text_format.MessageToString(got)
"""
PYTHON_ONLY = 'import os; os.environ["PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"] = "python"'
CHANGED = """
import importlib.abc
class Breaks(importlib.abc.MetaPathFinder):
    # A protobuf that needs its Python half while it is loaded.
    def find_spec(self, name, path, target=None):
        if name == "google.protobuf.descriptor_pool":
            from google.protobuf.internal import python_message
            python_message.GeneratedProtocolMessageType
sys.meta_path.insert(0, Breaks())
"""


@pytest.mark.parametrize(
    ("setup", "is_lean"),
    [
        ("", True),
        ("from google.protobuf import descriptor_pool", False),
        (PYTHON_ONLY, False),
        (CHANGED, False),
    ],
    ids=["as installed", "loaded before", "in Python only", "changed"],
)
def test_messages_work_whether_or_not_protobuf_could_be_loaded_leanly(
    setup: str, is_lean: bool
) -> None:
    probe = PROBE.format(setup=setup, is_lean=is_lean)
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
