"""Errors by who must act: the user, time (retry later), the host's operator, or the developers.

Every error raised across a module border is one of these. ``reason`` is a metric label and the first
key of the log line. Foreign exceptions (OSError, pynvml, grpc, HTTP) are mapped in their adapter.
Messages: lower case; the object, the value, what to do.
"""

from __future__ import annotations

from typing import ClassVar


class NvdraError(Exception):
    """Base of all errors of this project."""

    reason: ClassVar[str] = "internal"


class ConfigError(NvdraError):
    """Our own configuration is wrong: the process exits with status 2 at start, never later."""

    reason = "config"


class MalformedTextError(NvdraError, ValueError):
    """An external text (quantity, version) does not parse; the caller adds where it came from."""

    reason = "malformed_text"


class ClaimError(NvdraError):
    """The claim is wrong; retrying cannot help. Sent to the kubelet at once and shown in the pod's
    event.
    """

    reason = "claim"


class InvalidConfigError(ClaimError):
    """An opaque config of the claim is wrong."""

    reason = "invalid_config"


class UnknownDeviceError(ClaimError):
    """The claim was allocated a device that this node does not have (any more)."""

    reason = "unknown_device"


class DeviceConflictError(ClaimError):
    """The claim was allocated a device that another prepared claim holds."""

    reason = "device_conflict"


class StaleClaimError(ClaimError):
    """The claim was deleted, was replaced by one of the same name, or is not allocated."""

    reason = "stale_claim"


class NotReadyError(NvdraError):
    """The world is not there yet; the same call may succeed later.

    ``retry_after_s`` is a hint in seconds; None leaves the pace to the caller.
    """

    reason = "not_ready"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class LockTimeoutError(NotReadyError):
    """A lock was not to be had inside the deadline."""

    reason = "lock_timeout"


class UnitRequestError(NvdraError):
    """A request to the unit broker is malformed or not permitted; nothing was done."""

    reason = "unit_request"


class DeadlineError(NotReadyError):
    """The operation's deadline passed; it did not finish."""

    reason = "deadline"


class NvmlSlowError(DeadlineError):
    """An NVML function had not returned when the caller's time was over, and is not taken for hung.
    It goes on: the same call, repeated, gets its result. ``waited_s``: since it was begun.
    """

    reason = "nvml_slow"

    def __init__(self, message: str, *, waited_s: float) -> None:
        super().__init__(message)
        self.waited_s = waited_s


class HostError(NvdraError):
    """The host failed. Returned to the kubelet; effects in progress stay in the journal."""

    reason = "host"


class EffectLostError(HostError):
    """An effect of a prepared claim was undone on the host; it can be applied again."""

    reason = "effect_lost"


class DeviceMovedError(HostError):
    """The device numbers or names of a prepared claim belong to another device now."""

    reason = "device_moved"


class NvmlError(HostError):
    """An NVML function failed. ``code`` is nvmlReturn_t, ``function`` the C name."""

    reason = "nvml"

    def __init__(self, message: str, *, function: str, code: int) -> None:
        super().__init__(message)
        self.function = function
        self.code = code


class NvmlHungError(NvmlError):
    """An NVML function did not return inside its deadline; its process was given up. ``code`` is
    -1.
    """

    reason = "nvml_hung"


class CommandError(HostError):
    """A command failed. Carries argv, return code (None: could not start or timed out) and
    output.
    """

    reason = "command"

    def __init__(
        self, message: str, *, argv: tuple[str, ...], returncode: int | None, output: str
    ) -> None:
        super().__init__(message)
        self.argv = argv
        self.returncode = returncode
        self.output = output


class FileError(HostError):
    """A file of the host could not be read or written. ``path`` names it."""

    reason = "file"

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class ApiError(NvdraError):
    """A Kubernetes API request failed. ``status`` is the HTTP code (0: no answer), ``api_reason``
    Status.reason.
    """

    reason = "api"

    def __init__(
        self,
        message: str,
        *,
        status: int,
        api_reason: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.api_reason = api_reason
        self.retry_after_s = retry_after_s


class RecordError(NvdraError):
    """A record on disk is corrupt or from a newer release; it is quarantined, never overwritten."""

    reason = "record"
