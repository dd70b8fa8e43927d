"""Structured logs on stderr: one line an event, ``message key=value ...``, as text or JSON.

``configure`` is called once per process; modules use ``get(__name__)``. Verbosity is upstream's ``-v``: 0 start and
permanent errors, 1 confirmations, 2 no-ops, 3 watches, 4 (default) each device and claim, 6 bodies and timings,
7 everything. Warnings and errors are always written, errors with ``reason`` first. Credentials are redacted.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from nvdra_core.errors import ConfigError, NvdraError

MAX_VERBOSITY = 7
FORMATS = ("text", "json")
_FIELDS = "nvdra_fields"
_REDACTED = "<redacted>"

_operation: ContextVar[str] = ContextVar("nvdra_operation", default="")
_numbers = itertools.count(int.from_bytes(os.urandom(4), "big"))
"""Ids of operations, from a random start: two runs of a service do not share ids."""

# One pass over the finished line: values of tell-tale keys, bearer credentials, JSON web tokens,
# PEM keys. "token: permission denied" must stay readable, so a bare text after a colon is only
# taken for a credential when it is long.
_SECRETS = re.compile(
    r"""(?ix)
    (?P<header> \bauthorization["']?\s*[=:]\s*["']?) (?:\w+\s+)? [^\s"',;}]+
    | (?P<key> \b[\w-]{0,40}(?:token|password|passwd|secret|api[_-]?key)["']?
        (?: \s*=\s*["']? | \s*:\s*["'] | \s*:\s*(?=[^\s"',;}]{16}) )) [^\s"',;}]+
    | (?P<scheme> \bbearer\s+) [\w.~+/=-]{8,}
    | \beyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?(?:-----END\ [A-Z ]*PRIVATE\ KEY-----|\Z)
    """,
    re.DOTALL,
)
_HINTS = ("token", "passw", "secret", "authoriz", "bearer", "eyj", "private key", "api")
"""Words without which ``_SECRETS`` cannot match; checking them first is ten times cheaper."""
_PLAIN = re.compile(r"[^\s\"'=\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_BREAKS = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")


def redact(text: str) -> str:
    """``text`` with everything in the form of a credential replaced."""
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return text
    return _SECRETS.sub(lambda m: (m["header"] or m["key"] or m["scheme"] or "") + _REDACTED, text)


class Logger:
    """The logger of one module. Messages below the verbosity are not formatted."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def info(self, message: str, *, v: int = 0, **fields: Any) -> None:
        """Log a normal event at verbosity ``v`` (0 to 7)."""
        level = logging.INFO - v
        if self._logger.isEnabledFor(level):
            self._logger.log(level, message, extra={_FIELDS: fields})

    def warning(self, message: str, cause: BaseException | None = None, **fields: Any) -> None:
        """Log something that is retried, or that an administrator should check."""
        self._report(logging.WARNING, message, cause, fields)

    def error(self, message: str, cause: BaseException, **fields: Any) -> None:
        """Log a failure. Exceptions other than NvdraError are bugs and are written with their stack."""
        self._report(logging.ERROR, message, cause, fields)

    def _report(
        self, level: int, message: str, cause: BaseException | None, fields: dict[str, Any]
    ) -> None:
        if not self._logger.isEnabledFor(level):
            return
        if cause is not None:
            reason = cause.reason if isinstance(cause, NvdraError) else NvdraError.reason
            fields = {"reason": reason, **fields, "error": str(cause) or type(cause).__name__}
        unexpected = cause is not None and not isinstance(cause, NvdraError)
        self._logger.log(
            level, message, extra={_FIELDS: fields}, exc_info=cause if unexpected else None
        )


def get(name: str) -> Logger:
    """The logger of a module: ``log.get(__name__)``."""
    return Logger(logging.getLogger(name))


@contextmanager
def operation(op: str = "") -> Iterator[str]:
    """Add one id (``op``, 8 hex digits, new unless given) to all lines of this thread inside the block."""
    op = op or f"{next(_numbers) & 0xFFFFFFFF:08x}"
    token = _operation.set(op)
    try:
        yield op
    finally:
        _operation.reset(token)


def is_journal(journal_stream: str, fd: int) -> bool:
    """Whether ``fd`` is connected to the journal, by $JOURNAL_STREAM (systemd.exec(5))."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False  # stderr is closed
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def configure(
    *, verbosity: int, style: str = "text", journal: bool = False, stream: TextIO | None = None
) -> None:
    """Send all logging of the process to ``stream`` (stderr); ``verbosity`` above 7 is 7.

    ``journal``: lines start with ``<N>`` (syslog priority) instead of the time, which the journal adds.
    Raises ConfigError for an unknown ``style`` or a verbosity below 0.
    """
    if style not in FORMATS:
        raise ConfigError(f'log format "{style}": not known; use {" or ".join(FORMATS)}')
    if verbosity < 0:
        raise ConfigError(f"log verbosity {verbosity}: out of range; use 0 to {MAX_VERBOSITY}")
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter(journal) if style == "json" else _TextFormatter(journal))
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    # Our lines do not have them; reading them costs time.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    root.setLevel(logging.INFO - min(verbosity, MAX_VERBOSITY))


def _fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Fields in the order of writing: reason, op, the others. Values are unformatted."""
    fields: dict[str, Any] = dict(getattr(record, _FIELDS, {}))
    ordered = {"reason": fields.pop("reason")} if "reason" in fields else {}
    if op := _operation.get():
        ordered["op"] = op
    return ordered | fields


def _severity(level: int) -> tuple[int, str]:
    """Syslog priority and the letter for text."""
    if level >= logging.ERROR:
        return 3, "E"
    if level >= logging.WARNING:
        return 4, "W"
    return (6, "I") if level >= logging.INFO else (7, "D")


class _Formatter(logging.Formatter):
    """Priority, time and redaction, for both styles."""

    def __init__(self, journal: bool) -> None:
        super().__init__()
        self._journal = journal

    def _time(self, record: logging.LogRecord) -> str:
        seconds, milliseconds = divmod(int(record.created * 1000), 1000)
        return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{milliseconds:03d}Z"

    def _finish(self, record: logging.LogRecord, text: str) -> str:
        # stderr may have any encoding; a lone surrogate from JSON must not lose the line.
        text = redact(text).encode("utf-8", "backslashreplace").decode()
        if not self._journal:
            return text
        prefix = f"<{_severity(record.levelno)[0]}>"
        return prefix + text.replace("\n", f"\n{prefix}")


class _TextFormatter(_Formatter):
    """``2026-01-02T03:04:05.678Z I nvdra_node.gpu: message key=value``."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        when = "" if self._journal else self._time(record) + " "
        letter = _severity(record.levelno)[1]
        parts = [f"{when}{letter} {record.name}: {_one_line(record.getMessage())}"]
        parts += [f"{key}={_text_value(value)}" for key, value in _fields_of(record).items()]
        text = " ".join(parts)
        if record.exc_info:
            text += "\n" + "\n".join(
                f"  {_one_line(line)}" for line in self.formatException(record.exc_info).split("\n")
            )
        return self._finish(record, text)


class _JsonFormatter(_Formatter):
    """One JSON object a line, with upstream's keys ``ts``, ``v`` and ``msg``."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging.Formatter."""
        line: dict[str, Any] = {
            "ts": self._time(record),
            "level": {"E": "error", "W": "warning"}.get(_severity(record.levelno)[1], "info"),
            "logger": record.name,
            "msg": redact(record.getMessage()),
        }
        if record.levelno <= logging.INFO:
            line["v"] = logging.INFO - record.levelno
        for key, value in _fields_of(record).items():
            # Redacted before quoting: a replacement of the quoted text could remove a quote.
            number = isinstance(value, int | float)
            line[key] = value if number else redact(f"{key}={value}")[len(key) + 1 :]
        if record.exc_info:
            line["stack"] = redact(self.formatException(record.exc_info))
        prefix = f"<{_severity(record.levelno)[0]}>" if self._journal else ""
        return prefix + json.dumps(line, default=str)


def _one_line(text: str) -> str:
    """Control characters escaped: a user's text must not start a new line."""
    return _BREAKS.sub(lambda m: json.dumps(m[0])[1:-1], text)


def _text_value(value: Any) -> str:
    text = str(value)
    if _PLAIN.fullmatch(text):
        return text
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else json.dumps(text)
