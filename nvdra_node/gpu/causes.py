"""Why a GPU is not offered, or is slow, in words for logs, health reports and events. Pure. Used by ``discover``.

Texts have no running numbers: a device's message is news to the kubelet each time that it changes.
"""

from __future__ import annotations

from collections.abc import Sequence

from nvdra_node.gpu.model import Gpu

COLD = "the first use of a GPU without persistence mode takes seconds"


def no_answer(limit_s: float) -> str:
    """Of a GPU whose call goes on for longer than it may."""
    return f"no answer within {limit_s:g} s; NVML is still being waited for"


def without_persistence(gpus: Sequence[Gpu]) -> list[str]:
    """Which GPUs are cold whenever no pod uses them."""
    names = [gpu.name for gpu in gpus if gpu.persistence is False]
    if not names:
        return []
    return [
        f"persistence mode is off ({', '.join(names)}): the first CUDA program of each pod and each look takes seconds"
        " longer; enable nvidia-persistenced.service"
    ]
