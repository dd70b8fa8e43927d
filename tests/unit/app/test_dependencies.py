"""The credential and the Node's name that the services start with, and what the sandbox hides."""

import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from nvdra_core.errors import ApiError, ConfigError
from nvdra_node import config
from nvdra_node.app import dependencies, sandbox
from nvdra_node.config import options
from nvdra_node.kube import permission
from tests.unit.kube import test_identity as credentials

TOP = Path(__file__).resolve().parents[3]


def settings_with(kubeconfig: Path, text: str = "") -> config.NodeConfig:
    made = config.load(
        file_text=text, file_name="config.yaml", environment={}, flags={}, host_name="Host-Name"
    )
    return replace(made, kubeconfig=kubeconfig)


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    """Of a node that its kubelet registered as ``tray-07``."""
    path = tmp_path / "kubeconfig"
    (tmp_path / "token").write_text(credentials.token({"name": "tray-07", "uid": "1"}))
    path.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443"}}],
                "users": [{"name": "u", "user": {"tokenFile": "token"}}],
            }
        )
    )
    return path


def test_node_name_is_the_credentials_not_the_hosts(kubeconfig: Path):
    settings = dependencies.with_node_name(settings_with(kubeconfig))
    assert settings.node_name == "tray-07"
    assert settings.sources["nodeName"] == f"credential {kubeconfig}"


def test_host_name_serves_a_credential_without_node(kubeconfig: Path):
    (kubeconfig.parent / "token").write_text(credentials.token(None))
    assert dependencies.with_node_name(settings_with(kubeconfig)).node_name == "host-name"
    set_by_file = settings_with(kubeconfig, "nodeName: other")
    assert dependencies.with_node_name(set_by_file).node_name == "other"


def test_node_name_other_than_the_credentials_is_refused(kubeconfig: Path):
    with pytest.raises(ConfigError, match=r"config\.yaml: nodeName is 'other'.*of node 'tray-07'"):
        dependencies.with_node_name(settings_with(kubeconfig, "nodeName: other"))
    with pytest.raises(ConfigError, match="of node 'tray-07'"):
        dependencies.checked(settings_with(kubeconfig, "nodeName: other"))


def test_check_config_works_before_the_host_has_a_credential(tmp_path: Path):
    settings = settings_with(tmp_path / "missing", "nodeName: other")
    assert dependencies.checked(settings) == settings


def test_kubeconfigs_of_common_distributions_are_searched():
    found = " ".join(map(str, options.KUBECONFIGS))
    for name in ("rke2", "k3s", "k0s", "microk8s", "/var/lib/kubelet", "/etc/kubernetes"):
        assert name in found
    assert str(options.KUBECONFIGS[0]) == "/etc/nvdra/kubeconfig"


def test_kubeconfig_in_a_hidden_home_is_not_called_missing():
    settings = settings_with(Path("/root/nvdra-test-missing/config"))
    with pytest.raises(
        ConfigError, match=r"hides /root \(ProtectHome=yes\); copy it to /etc/nvdra"
    ):
        dependencies.load_kubeconfig(settings)


def test_credential_file_in_a_hidden_home_is_named(kubeconfig: Path):
    text = kubeconfig.read_text().replace('"token"', '"/home/admin/token"')
    kubeconfig.write_text(text)
    with pytest.raises(ConfigError, match=r"/home/admin/token: .*hides /home"):
        dependencies.open_client(settings_with(kubeconfig))


def test_paths_that_the_sandbox_hides_are_warned_about():
    settings = settings_with(Path("/etc/kubeconfig"), "nvidiaCtkPath: /home/admin/nvidia-ctk")
    (warning,) = dependencies.warnings(settings)
    assert warning.startswith("nvidiaCtkPath is /home/admin/nvidia-ctk: the sandbox")


def test_hidden_directories_are_those_of_the_units():
    for unit in ("nvdra-gpu-plugin", "nvdra-compute-domain-plugin", "nvdra-imex-supervisor"):
        text = (TOP / "systemd" / f"{unit}.service").read_text()
        for setting in set(sandbox.HIDDEN.values()):
            assert re.search(f"^{setting}$", text, re.MULTILINE), (unit, setting)


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (403, "correct nodeName"),
        (403, "node.allowKubeletCredential=true"),
        (404, "set nodeName"),
        (500, None),
        (0, None),
    ],
)
def test_node_name_errors_name_the_setting(status: int, says: str | None):
    error = ApiError("no", status=status, api_reason="R", retry_after_s=2.0)
    explained = permission.with_remedy(error, "tray-07")
    assert (explained.status, explained.api_reason, explained.retry_after_s) == (status, "R", 2.0)
    assert str(explained) == "no" if says is None else says in str(explained)
