"""What the branches of an instance are called, after migrations that renamed their steps."""

from __future__ import annotations

from collections.abc import Mapping


class Names:
    """What branches were called under earlier versions: keys of effects must outlive a rename."""

    __slots__ = ("_firsts", "_now")

    def __init__(self, *migrations: Mapping[str, str]) -> None:
        """Take note of the renames, old to new, of each migration in turn."""
        self._firsts: dict[str, str] = {}
        self._now: dict[str, str] = {}
        for renamed in migrations:
            for old, new in renamed.items():
                first = self._firsts.pop(old, old)
                self._firsts[new] = first
                self._now = {name: new if now == old else now for name, now in self._now.items()}
                self._now[old] = self._now[first] = new

    def first(self, branch: str) -> str:
        """The name under which the branch was begun, or could have been."""
        return with_step(branch, self._firsts)

    def current(self, branch: str) -> str:
        """Today's name of a branch that may be called by an old one."""
        return with_step(branch, self._now)


NEVER_RENAMED = Names()


def with_step(branch: str, names: Mapping[str, str]) -> str:
    """The branch's name with its step's name replaced, whichever of its items it is."""
    step, bracket, item = branch.partition("[")
    return names.get(step, step) + bracket + item
