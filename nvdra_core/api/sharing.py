"""How a GPU or MIG device is shared by the containers of one claim. Data only; validated by
``rules``.
"""

from __future__ import annotations

from enum import Enum

from nvdra_core.api.meta import ApiStruct, QuantityText


class Strategy(str, Enum):
    """How several processes share one device."""

    TIME_SLICING = "TimeSlicing"
    MPS = "MPS"


class Interval(str, Enum):
    """How long a process may keep the GPU before the next one runs."""

    DEFAULT = "Default"
    SHORT = "Short"
    MEDIUM = "Medium"
    LONG = "Long"

    @property
    def time_slice(self) -> int:
        """The number ``nvidia-smi compute-policy --set-timeslice`` takes: 0 to 3."""
        return list(Interval).index(self)


class TimeSlicingConfig(ApiStruct, frozen=True):
    """Settings of the strategy TimeSlicing."""

    interval: Interval | None = None
    """None (also from ``timeSlicingConfig: {}``) means Default."""


class MpsConfig(ApiStruct, frozen=True):
    """Settings of the strategy MPS, for the claim's control daemon."""

    default_active_thread_percentage: int | None = None
    """0 to 100; None leaves it to MPS."""
    default_pinned_device_memory_limit: QuantityText | None = None
    """For every device of the claim; at least 1Mi."""
    default_per_device_pinned_memory_limit: dict[str, QuantityText] | None = None
    """By device UUID, or by index into the claim's sorted UUIDs; beats the limit for every
    device.
    """
    multi_user: bool | None = None
    """Clients of several users; needs compute capability 7.0."""


class GpuSharing(ApiStruct, frozen=True):
    """Sharing of a full GPU."""

    strategy: Strategy
    time_slicing_config: TimeSlicingConfig | None = None
    mps_config: MpsConfig | None = None


class MigSharing(ApiStruct, frozen=True):
    """Sharing of a MIG device. TimeSlicing is allowed and changes nothing: the hardware has no
    setting for it.
    """

    strategy: Strategy
    mps_config: MpsConfig | None = None
