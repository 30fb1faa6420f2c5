"""Which policies can't stand around which, and why: checked when a `Pipeline` is built."""

from __future__ import annotations

from itertools import combinations

from standfast.durations import human
from standfast.errors import ConfigurationError
from standfast.resilience.policy import Policy

# (outer, inner): why not. By `Policy.label`, so that no policy must be imported to be checked.
REFUSED = {
    ("retry", "fallback"): (
        "the fallback answers every failure, so the retry would never see one. "
        "Put the fallback outside the retry"
    ),
    ("circuit_breaker", "fallback"): (
        "the fallback answers every failure, so the breaker would never see one and never open. "
        "Put the fallback outside the breaker"
    ),
    ("hedge", "fallback"): (
        "a fallback's quick answer would win over the slower real one. "
        "Put the fallback outside the hedge"
    ),
    ("circuit_breaker", "retry"): (
        "the breaker would count one failure where several calls failed, and couldn't stop the "
        "retries once it should be open. Put the retry outside the breaker"
    ),
    ("hedge", "retry"): (
        "each of the hedge's calls would be tried again for itself, which multiplies the load. "
        "Put the retry outside the hedge"
    ),
    ("hedge", "hedge"): "their calls multiply. Keep one",
    ("circuit_breaker", "circuit_breaker"): (
        "the outer one would count the inner one's rejections. Keep one for each dependency"
    ),
}


def check(policies: tuple[Policy, ...]) -> None:
    """Raise `ConfigurationError`, with the reason, if these can't stand in this order.

    `policies` come outermost first, without pipelines among them.
    """
    if not policies:
        raise ConfigurationError("a Pipeline without policies does nothing: give at least one")
    for outer, inner in combinations(policies, 2):
        reason = REFUSED.get((outer.label, inner.label)) or _between(outer, inner)
        if reason is not None:
            kinds = f"{type(inner).__name__} inside {type(outer).__name__}"
            raise ConfigurationError(f"{kinds}: {reason} (it is {inner!r} inside {outer!r})")


def _between(outer: Policy, inner: Policy) -> str | None:
    """What depends on the options of the two."""
    if outer is inner:
        return "it is the same policy twice, and would count each call twice. Keep one"
    if (outer.label, inner.label) == ("retry", "retry"):
        return (
            f"their attempts multiply{_product(outer, inner)}. Keep one, with the attempts you want"
        )
    if (outer.label, inner.label) == ("timeout", "timeout"):
        longest, length = getattr(outer, "after", 0.0), getattr(inner, "after", 0.0)
        if length >= longest:
            return (
                f"the inner timeout of {human(length)} can't come before the outer one of "
                f"{human(longest)}. Make it shorter, or leave it out"
            )
    if (outer.label, inner.label) == ("timeout", "hedge"):
        longest, delay = getattr(outer, "after", 0.0), getattr(inner, "delay", 0.0)
        if delay >= longest and getattr(inner, "percentile", None) is None:
            return (
                f"the second call after {human(delay)} can't come before the timeout of "
                f"{human(longest)}. Make the delay shorter, or leave the hedge out"
            )
    if (outer.label, inner.label) == ("retry", "hedge") and not getattr(outer, "idempotent", True):
        return (
            "idempotent=False says that the call must not be made twice, which is what a hedge "
            "does. Leave the hedge out"
        )
    return None


def _product(outer: Policy, inner: Policy) -> str:
    """How many calls two retries make of one, where both have a limit."""
    some, others = getattr(outer, "attempts", None), getattr(inner, "attempts", None)
    if not isinstance(some, int) or not isinstance(others, int):
        return ""
    return f" ({some} and {others} make {some * others} calls)"
