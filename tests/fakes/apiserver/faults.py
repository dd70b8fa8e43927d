"""Faults on demand. Rules apply in order; each answers its next ``count`` matching requests."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

ACTIONS = ("status", "slow", "hang", "no_answer", "reset", "cut")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One rule; empty ``verb`` and ``resource`` match all, ``count`` 0 means for ever.

    ``action``: ``status`` answers ``code`` (and Retry-After when ``retry_after_s`` is not None), ``slow`` answers
    rightly after ``delay_s`` and with a Warning header for each line of ``warning``, ``hang`` keeps the connection
    silent, ``no_answer`` closes it before a byte of the answer, ``reset`` does so with a TCP reset, ``cut`` closes it
    after the head. All but ``status`` and ``slow`` leave it open whether the request was carried out; it is carried out
    when ``is_executed``.
    """

    verb: str = ""
    resource: str = ""
    count: int = 1
    action: str = "status"
    code: int = 503
    retry_after_s: int | None = None
    delay_s: float = 0.0
    warning: str = ""
    is_executed: bool = False

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"fault action {self.action!r} is none of {', '.join(ACTIONS)}")


class Faults:
    """The rules in force. Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Fault] = []
        self.cleared = threading.Event()
        """Set for a moment by ``clear``: hanging connections end."""

    def add(self, fault: Fault) -> None:
        """Append a rule."""
        with self._lock:
            self.cleared = threading.Event()
            self._rules.append(fault)

    def clear(self) -> None:
        """Remove all rules and end what hangs."""
        with self._lock:
            self._rules.clear()
            self.cleared.set()

    def take(self, verb: str, resource: str) -> Fault | None:
        """The rule that this request falls under, used up by one."""
        if not self._rules:
            return None
        with self._lock:
            for index, rule in enumerate(self._rules):
                if rule.verb in {"", verb} and rule.resource in {"", resource}:
                    if rule.count == 1:
                        del self._rules[index]
                    elif rule.count > 1:
                        self._rules[index] = replace(rule, count=rule.count - 1)
                    return rule
        return None
