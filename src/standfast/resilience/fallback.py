"""Fallback: another answer where there is no proper one."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Hashable, Iterable
from typing import Any, ClassVar, Literal

from standfast.checks import text
from standfast.clock import SYSTEM_CLOCK, Clock
from standfast.errors import ConfigurationError, Refused
from standfast.groups import every, some
from standfast.resilience.deadline import caller_is_gone
from standfast.resilience.degraded import Degraded, note
from standfast.resilience.functions import (
    FINISHED,
    as_made,
    exceptions,
    finished,
    must_await,
    origin,
)
from standfast.resilience.in_progress import out_of_sight
from standfast.resilience.last_good import LastGood
from standfast.resilience.policy import AsyncCall, Call, Measure, Policy
from standfast.resilience.telemetry import Instrument, span_event, watch
from standfast.text import qualified_name

INSTRUMENTS = {
    "standfast.fallback.used": Instrument("counter", "{call}", "Answers that were substitutes"),
}

_NONE: Any = object()


class Fallback(Policy):
    """Answers in place of a call that failed, with what is given, tried in this order:

    - `last_good`: the last good answer of the same function to the same arguments (`LastGood`);
    - `function`: called with the error, then the call's own arguments; may be ``async def`` around
      an ``async def``. What it raises comes out, with the first error as its context;
    - `value`: the same for all.

    If none has an answer (no last good one is kept), the error comes out. Only the exceptions in
    `on` are answered, none of `never_on`, and never `Refused` or cancellation: business that says
    no is an answer. An exception group is answered if all that is in it is. Each substitute is told
    to the caller through `collect_degraded`, and counted.
    """

    label: ClassVar[str] = "fallback"

    def __init__(
        self,
        value: object = _NONE,
        *,
        function: Callable[..., Any] | None = None,
        last_good: LastGood | None = None,
        on: tuple[type[BaseException], ...] = (Exception,),
        never_on: tuple[type[BaseException], ...] = (),
        name: str = "",
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if inspect.isroutine(value):
            raise ConfigurationError(
                f"value={value!r}: the function itself would be the answer. To call it write "
                "function=…, and to decorate it write @Fallback(…)"
            )
        text(name)
        if value is _NONE and function is None and last_good is None:
            raise ConfigurationError(
                "a Fallback without an answer: give value, function or last_good"
            )
        if value is not _NONE and function is not None:
            raise ConfigurationError(
                f"value={value!r} and function={function!r}: the function always answers, so the "
                "value would never be used. Give one of them"
            )
        if function is not None:
            if not callable(function):
                raise ConfigurationError(f"function={function!r}: give a function, or value=...")
            must_await(function)  # which refuses a generator
        if last_good is not None and not isinstance(last_good, LastGood):
            raise ConfigurationError(f"last_good={last_good!r}: give LastGood(max_age=...)")
        self.on: tuple[type[BaseException], ...] = exceptions(on, name="on")
        self.never_on: tuple[type[BaseException], ...] = exceptions(never_on, name="never_on")
        self.name: str = name
        self.clock: Clock = clock
        self.used: dict[str, int] = {"value": 0, "function": 0, "last good": 0}
        """Substitutes given so far, by their source."""
        self._value = value
        self._function = function
        self._last_good = last_good
        self._watched = False

    def __repr__(self) -> str:
        # Not its value: that is the user's data, and messages are logged.
        return as_made("Fallback", function=self._function, name=self.name)

    def measures(self) -> Iterable[Measure]:
        """Substitutes by source."""
        for source, count in self.used.items():
            yield "standfast.fallback.used", count, {"name": self.name, "source": source}

    def around(self, call: Call) -> Call:
        """`call`, answered for when it fails."""
        if self._function is not None and must_await(self._function):
            raise ConfigurationError(
                f"function={self._function!r} is async, but what it answers for isn't: give a "
                "plain function"
            )
        self._watch()
        kept, function = self._last_good, origin(call)

        def answered(*args: Any, **kwargs: Any) -> Any:
            key = None if kept is None else kept.key(function, args, kwargs)
            begun = 0.0 if kept is None else self.clock.monotonic()
            try:
                result = call(*args, **kwargs)
            except Exception as error:
                substitute = self._substitute(error, key)
                if substitute is not _NONE:
                    return substitute
                if self._function is None or not self._answers(error):
                    raise
                with out_of_sight():
                    result = self._function(error, *args, **kwargs)
                if type(result) not in FINISHED:
                    finished(self._function, result)
                self._used("function", error)
                return result
            if type(result) not in FINISHED:
                finished(call, result)
            if kept is not None:
                kept.keep(key, result, self.clock.monotonic(), begun)
            return result

        return answered

    def around_async(self, call: AsyncCall) -> AsyncCall:
        """`call`, answered for when it fails."""
        self._watch()
        kept, function = self._last_good, origin(call)

        async def answered(*args: Any, **kwargs: Any) -> Any:
            key = None if kept is None else kept.key(function, args, kwargs)
            begun = 0.0 if kept is None else self.clock.monotonic()
            try:
                result = await call(*args, **kwargs)
            except Exception as error:
                substitute = self._substitute(error, key)
                if substitute is not _NONE:
                    return substitute
                if self._function is None or not self._answers(error):
                    raise
                with out_of_sight():
                    result = self._function(error, *args, **kwargs)
                    if inspect.isawaitable(result):
                        result = await result
                    elif type(result) not in FINISHED:
                        finished(self._function, result)
                self._used("function", error)
                return result
            if kept is not None:
                kept.keep(key, result, self.clock.monotonic(), begun)
            return result

        return answered

    def _answers(self, error: Exception) -> bool:
        if caller_is_gone():  # a `Timeout` has told that it took too long: nobody hears this answer
            return False
        return every(error, self.on) and not some(error, (Refused, *self.never_on))

    def _substitute(self, error: Exception, key: Hashable) -> Any:
        """The last good answer or the value; `_NONE` if there is neither."""
        if not self._answers(error):
            return _NONE
        if self._last_good is not None:
            found = self._last_good.find(key, self.clock.monotonic())
            if found is not None:
                self._used("last good", error, age=found[0])
                return found[1]
        if self._value is not _NONE:
            self._used("value", error)
        return self._value

    def _used(
        self,
        source: Literal["value", "function", "last good"],
        error: Exception,
        *,
        age: float = 0.0,
    ) -> None:
        self.used[source] += 1
        note(Degraded(self.name, source, age, error))
        span_event("fallback", name=self.name, source=source, age=age, error=qualified_name(error))

    def _watch(self) -> None:
        if not self._watched:
            self._watched = True
            watch(self, INSTRUMENTS)
