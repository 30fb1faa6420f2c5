"""What travels between services beside the payload: who asks, for which branch, do or undo."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, cast

from standfast.errors import ConfigurationError

Operation: TypeAlias = Literal["action", "compensation"]

KEY_HEADER = "Idempotency-Key"
OPERATION_HEADER = "Standfast-Operation"
CORRELATION_HEADER = "Standfast-Correlation-Id"


@dataclass(frozen=True, slots=True)
class BranchKey:
    """Names one effect in a participant, the same for its action and its compensation.

    `key` is stable over attempts, crashes and restarts. `operation` says whether it is to be done
    or undone. Sent as HTTP headers by `headers` and read back by `from_headers`.
    """

    key: str
    operation: Operation = "action"

    def headers(self) -> dict[str, str]:
        """The HTTP headers that carry it."""
        return {KEY_HEADER: self.key, OPERATION_HEADER: self.operation}

    @classmethod
    def from_headers(cls, headers: Mapping[str, str]) -> BranchKey:
        """Read it from HTTP headers (names in any case). Raises `ConfigurationError` if absent."""
        lower = {name.lower(): value for name, value in headers.items()}
        key = lower.get(KEY_HEADER.lower(), "")
        operation = lower.get(OPERATION_HEADER.lower(), "action")
        if not key or operation not in ("action", "compensation"):
            raise ConfigurationError(
                f"{KEY_HEADER}={key!r}, {OPERATION_HEADER}={operation!r}: the caller must send "
                "ctx.headers()"
            )
        return cls(key, cast(Operation, operation))
