"""What the library logs, read off its source, and the table of ``docs/reference/logging.md``."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.docs.blocks import ROOT

PAGE = ROOT / "docs/reference/logging.md"
SOURCE = ROOT / "src"
LEVELS = {"exception": "ERROR", "warning": "WARNING"}
METHODS = ("debug", "info", "warning", "error", "exception", "critical")
ORDER = ("CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG")
HEAD = "| level | logger | message | carries |"


class Call(NamedTuple):
    """One call: its level, its logger's name, its message, and what goes with it."""

    level: str
    logger: str
    message: str
    carries: str

    def row(self) -> str:
        return f"| {self.level} | `{self.logger}` | {self.message} | {self.carries} |"


def calls() -> list[Call]:
    """All that is logged, in the order of the table."""
    found = {call for file in SOURCE.rglob("*.py") for call in _of(file)}
    return sorted(found, key=lambda call: (ORDER.index(call.level), call[1:]))


def _of(file: Path) -> Iterator[Call]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    loggers: dict[str, str] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and "getLogger" in ast.unparse(node.value):
            assert isinstance(node.value, ast.Call)
            given = node.value.args[0]
            module = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
            name = str(given.value) if isinstance(given, ast.Constant) else module
            loggers[ast.unparse(node.targets[0])] = name
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        logger = loggers.get(ast.unparse(node.func.value))
        if logger is None or node.func.attr not in METHODS:
            continue
        options = {keyword.arg for keyword in node.keywords}
        carries = []
        if "extra" in options:
            carries.append("fields")
        if node.func.attr == "exception" or "exc_info" in options:
            carries.append("traceback")
        level = LEVELS.get(node.func.attr, node.func.attr.upper())
        yield Call(level, logger, _message(node.args[0]), ", ".join(carries))


def _message(given: ast.expr) -> str:
    if not isinstance(given, ast.Constant):
        return "…"
    text = re.sub(r"%[-+ #0-9.]*[a-z]", "…", str(given.value).replace("%%", "%"))
    return re.sub("(… ?)+$", "…", " ".join(text.split())).replace("|", r"\|")


def told() -> list[str]:
    """The rows of the page's table."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    begin = lines.index(HEAD) + 2
    end = next(n for n in range(begin, len(lines)) if not lines[n].startswith("|"))
    return lines[begin:end]


def rewrite(rows: list[str]) -> None:
    """Put these rows in place of the page's."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    begin = lines.index(HEAD) + 2
    lines[begin : begin + len(told())] = rows
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
