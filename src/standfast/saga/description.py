"""A saga's definition as Markdown: what each step does, and what undoes it."""

from __future__ import annotations

import inspect
from typing import Any

from standfast.durations import human, seconds
from standfast.resilience.retry import Retry
from standfast.saga.definition import Definition
from standfast.saga.plan import StepPlan
from standfast.saga.step import Step
from standfast.text import on_one_line


def describe(definition: Definition) -> str:
    """A heading, the saga's docstring, the table of its steps and that of its compensations."""
    plan = definition.plan
    lines = [f"# {plan.name}, version {plan.version}", ""]
    told = type(definition.saga).__doc__
    if told:
        lines += [inspect.cleandoc(told), ""]
    lines.append(f"- input: `{_type(definition.input_type)}`")
    if plan.deadline is not None:
        lines.append(f"- deadline: {human(plan.deadline)}")
    lines.append(f"- point of no return: {f'`{plan.pivot}`' if plan.pivot else 'none'}")
    if definition.max_in_flight is not None:
        lines.append(f"- at most {definition.max_in_flight} in flight per worker")
    lines += ["", "## Steps", "", "| step | what | after | timeout | retry | when exhausted |"]
    lines.append("|---|---|---|---|---|---|")
    lines += [_row(_step(one, definition.steps[one.name])) for one in plan.steps.values()]
    lines += ["", "## Compensations", "", "| step | undone by | timeout | retry |"]
    lines.append("|---|---|---|---|")
    lines += [
        _row(_undo(one, definition.steps[one.name], plan.pivot)) for one in plan.steps.values()
    ]
    return "\n".join(lines) + "\n"


def _step(plan: StepPlan, step: Step[Any, Any]) -> list[str]:
    what = (inspect.getdoc(step.function) or "").partition("\n")[0] if step.function else ""
    if plan.form == "wait":
        what = f"waits for the signal `{plan.signal}`"
    elif plan.form == "sleep":
        how_long = "until a time" if plan.duration is None else f"for {human(plan.duration)}"
        what = f"sleeps {how_long}"
    elif plan.form == "child" and step.child is not None:
        what = f"runs the saga `{step.child.saga_name()}`"
    marks = [
        text
        for text, holds in (
            ("pivot", plan.pivot),
            ("conditional", plan.conditional),
            (_items(plan.limit), plan.fans_out),
            ("transactional", plan.transactional),
        )
        if holds
    ]
    what = " ".join([what, f"({', '.join(marks)})" if marks else ""]).strip()
    is_wait = plan.form == "wait"
    return [
        f"`{plan.name}`",
        what,
        ", ".join(f"`{name}`" for name in plan.after),
        _timeout(plan.timeout),
        "" if plan.form != "action" else _retry(plan.retry),
        plan.on_timeout if is_wait else plan.on_exhausted if plan.form == "action" else "",
    ]


def _items(limit: int | None) -> str:
    return "each item" if limit is None else f"each item, {limit} at a time"


def _undo(plan: StepPlan, step: Step[Any, Any], pivot: str | None) -> list[str]:
    if step.undo_function is not None:
        mark = " (transactional)" if plan.undo_transactional else ""
        name = f"`{step.undo_function.__name__}`{mark}"
        return [f"`{plan.name}`", name, _timeout(plan.undo_timeout), _retry(plan.undo_retry)]
    if plan.no_compensation:
        why = f"needs none: {plan.no_compensation}"
    elif plan.pivot:
        why = "the point of no return"
    elif plan.form == "child":
        why = "asking the child saga to undo itself"
    elif plan.form in ("wait", "sleep"):
        why = "nothing to undo"
    else:
        why = f"never: it comes after the pivot `{pivot}`"
    return [f"`{plan.name}`", why, "", ""]


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(on_one_line(cell).replace("|", "\\|") for cell in cells) + " |"


def _timeout(timeout: float | None) -> str:
    return "" if timeout is None else human(timeout)


def _retry(retry: Retry) -> str:
    tries = (
        "" if retry.attempts is None else f"{retry.attempts} attempt{'s' * (retry.attempts != 1)}"
    )
    within = "" if retry.total is None else f"for up to {human(seconds(retry.total))}"
    return ", ".join(filter(None, [tries, within])) or "for ever"


def _type(type: Any) -> str:
    return "anything" if type is Any else str(getattr(type, "__qualname__", None) or type)
