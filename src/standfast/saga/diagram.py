"""Mermaid flowcharts of a saga's plan, alone or with what happened to one instance."""

from __future__ import annotations

from standfast.durations import human
from standfast.saga.plan import Plan, StepPlan
from standfast.saga.state import SagaState

CLASSES = {
    "completed": "fill:#d3f9d8,stroke:#2b8a3e",
    "open": "fill:#d0ebff,stroke:#1971c2",
    "parked": "fill:#fff3bf,stroke:#e67700",
    "failed": "fill:#ffe3e3,stroke:#c92a2a",
    "refused": "fill:#ffe3e3,stroke:#c92a2a",
    "skipped": "fill:#f1f3f5,stroke:#868e96,stroke-dasharray:4",
    "unreached": "fill:#ffffff,stroke:#ced4da",
    "pivot": "stroke-width:4px",
}


def mermaid(plan: Plan, state: SagaState | None = None) -> str:
    """A flowchart of `plan`; with `state`, each step has the class of what became of it."""
    lines = ["flowchart TD", "    begin((start))", "    finish((done))"]
    for step in plan.steps.values():
        lines.append(f"    {_node(step)}")
        arrow = '-. "if its condition holds" .->' if step.conditional else "-->"
        lines += [f"    {before} {arrow} s_{step.name}" for before in _before(step)]
        if not plan.successors[step.name]:
            lines.append(f"    s_{step.name} --> finish")
        if step.undo or (step.form == "child" and not step.no_compensation):
            lines.append(f'    u_{step.name}["undo {step.name}"]')
            lines.append(f"    s_{step.name} -. compensation .-> u_{step.name}")
    used: set[str] = set()

    def mark(node: str, name: str) -> None:
        used.add(name)
        lines.append(f"    class {node} {name}")

    for step in plan.steps.values():
        if step.pivot:
            mark(f"s_{step.name}", "pivot")
        if state is None:
            continue
        branch = state.branches.get(step.name)
        mark(f"s_{step.name}", "unreached" if branch is None else branch.state)
        if branch is not None and branch.undo in _UNDO:
            mark(f"u_{step.name}", _UNDO[branch.undo])
    lines += [f"    classDef {name} {CLASSES[name]}" for name in CLASSES if name in used]
    return "\n".join(lines) + "\n"


_UNDO = {"due": "open", "done": "completed", "failed": "failed", "skipped": "skipped"}


_SHAPES = {
    "action": ("[", "]"),
    "wait": ("{{", "}}"),
    "sleep": ("([", "])"),
    "child": ("[[", "]]"),
}


def _before(step: StepPlan) -> list[str]:
    return [f"s_{name}" for name in step.after] or ["begin"]


def _node(step: StepPlan) -> str:
    label = step.name
    if step.fans_out:
        label += " (each item)" if step.limit is None else f" (each item, {step.limit} at a time)"
    if step.form == "wait":
        within = "" if step.timeout is None else f" within {human(step.timeout)}"
        label = f"wait for {step.signal}{within}"
    if step.form == "sleep":
        label = step.name if step.duration is None else f"sleep {human(step.duration)}"
    if step.pivot:
        label += " (pivot)"
    left, right = _SHAPES[step.form]
    text = label.replace('"', "#quot;")
    return f's_{step.name}{left}"{text}"{right}'
