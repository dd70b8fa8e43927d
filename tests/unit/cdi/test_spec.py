"""The contents of CDI files."""

import json

import pytest
import yaml

from nvdra_node.cdi import spec
from nvdra_node.cdi.edits import (
    CdiDevice,
    ClaimSpec,
    ContainerEdits,
    DeviceNode,
    Mount,
    nvidia_hook,
)

KIND = "k8s.gpu.nvidia.com/claim"
COMMON = spec.Common(b'{"env":["A=1"]}')


def a_spec(**edits):
    return ClaimSpec(devices=(CdiDevice(name="uid-gpu-0", edits=ContainerEdits(**edits)),))


def render(claim_spec, common=COMMON):
    return json.loads(spec.render(KIND, claim_spec, common))


def test_rendered_spec_has_all_fields():
    edits = {
        "env": ("B=2",),
        "device_nodes": (
            DeviceNode(path="/dev/a", host_path="/root/dev/a", major=1, minor=0, gid=7),
        ),
        "mounts": (Mount(host_path="/h", container_path="/c"),),
        "hooks": (nvidia_hook("/usr/bin/nvidia-cdi-hook", "chmod"),),
    }
    assert render(a_spec(**edits)) == {
        "cdiVersion": "0.5.0",
        "kind": KIND,
        "devices": [
            {
                "name": "uid-gpu-0",
                "containerEdits": {
                    "env": ["B=2"],
                    "deviceNodes": [
                        {
                            "path": "/dev/a",
                            "hostPath": "/root/dev/a",
                            "type": "c",
                            "major": 1,
                            "minor": 0,
                            "permissions": "rwm",
                            "gid": 7,
                        }
                    ],
                    "mounts": [
                        {
                            "hostPath": "/h",
                            "containerPath": "/c",
                            "options": ["ro", "nosuid", "nodev", "rbind", "rprivate"],
                        }
                    ],
                    "hooks": [
                        {
                            "hookName": "createContainer",
                            "path": "/usr/bin/nvidia-cdi-hook",
                            "args": ["nvidia-cdi-hook", "chmod"],
                            "env": ["NVIDIA_CTK_DEBUG=false"],
                        }
                    ],
                },
            }
        ],
        "containerEdits": {"env": ["A=1"]},
    }


def test_rendered_spec_is_yaml():
    data = spec.render(KIND, a_spec(env=('QUOTE="x": y',)), COMMON)
    assert yaml.safe_load(data) == json.loads(data)


@pytest.mark.parametrize(
    ("edits", "common", "version"),
    [
        ({}, "0.3.0", "0.5.0"),
        ({}, "0.5.0", "0.5.0"),
        ({"additional_gids": (44,)}, "0.5.0", "0.7.0"),
        ({}, "0.10.0", "0.10.0"),
    ],
)
def test_version_is_the_lowest_that_has_all_fields(edits, common, version):
    common = spec.Common(b"{}", spec.parse_version(common))
    assert render(a_spec(**edits), common)["cdiVersion"] == version


def test_equal_input_gives_equal_bytes():
    one, two = (spec.render(KIND, a_spec(env=("A=1",)), COMMON) for _ in range(2))
    assert one == two


def test_hook_of_nvidia_ctk_is_a_subcommand():
    assert nvidia_hook("/x/nvidia-ctk", "chmod").args == ("nvidia-ctk", "hook", "chmod")
