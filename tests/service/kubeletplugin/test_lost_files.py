"""CDI files deleted by another program while their pods run are written again."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.beds.services.gpu_service import a_gpu_service
from tests.lib.waits import until

pytestmark = [
    pytest.mark.sim,
    pytest.mark.skipif(os.geteuid() != 0, reason="a GPU is prepared with its node: run as root"),
]


def test_deleted_cdi_file_is_written_again(directory: Path) -> None:
    with a_gpu_service(directory) as service:
        service.start()
        until(service.is_published)
        assert service.kubelet.prepare(service.claim("c1")).errors == {}
        (path,) = service.cdi.iterdir()
        content = path.read_bytes()
        for _ in range(2):
            path.unlink()
            until(path.exists)
            assert path.read_bytes() == content
