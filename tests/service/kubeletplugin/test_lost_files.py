"""The whole service: a CDI file that somebody deletes while its pod runs comes back."""

from __future__ import annotations

from pathlib import Path

from nvdra_core.kube.fake.server import FakeApiServer
from nvdra_node.checkpoint import codec
from nvdra_node.checkpoint.model import Record, RecordState
from tests.service.kubeletplugin.plugin import DRIVER
from tests.service.kubeletplugin.publishing import add_node, until
from tests.service.kubeletplugin.test_stopping import BOOT_ID, a_service


def test_a_deleted_cdi_file_comes_back_by_itself(directory: Path) -> None:
    record = Record(
        uid="c1",
        namespace="ns",
        name="claim",
        state=RecordState.COMPLETED,
        boot_id=BOOT_ID,
        cdi={"devices": [{"name": "c1-gpu-0", "containerEdits": {}}], "driverFiles": False},
    )
    claims = directory / "state" / DRIVER / "claims"
    claims.mkdir(parents=True)
    (claims / "c1.json").write_bytes(codec.encode(record))
    path = directory / "cdi" / "k8s.gpu.nvidia.com-claim_c1.yaml"
    with FakeApiServer() as server:
        add_node(server)
        with a_service(directory, server):
            for _ in range(2):
                until(path.exists)
                assert b"c1-gpu-0" in path.read_bytes()
                path.unlink()
