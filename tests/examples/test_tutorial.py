"""Pages that show an output print what they show: a reader sees the same."""

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, read_page
from tests.docs.test_pages import run_page

PAGES = [
    *(ROOT / page for page in ("README.md", "docs/index.md", "docs/reference/sagas.md")),
    *sorted(
        path for path in (ROOT / "docs" / "tutorial").glob("*.md") if "```text" in path.read_text()
    ),
]
pytestmark = pytest.mark.slow
_OUTPUT = re.compile(r"^```text\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# Written by the runner of pages itself.
_RUNNER = re.compile(r"^(run|import|skip) [\w-]+\.md:\d+")


def shown(page: Path) -> list[str]:
    return [line for block in _OUTPUT.findall(page.read_text()) for line in block.splitlines()]


def pattern(lines: list[str]) -> str:
    """A line `…` stands for any lines, `…` in a line for any text."""
    parts = [
        r"(?:.*\n)*?" if line == "…" else re.escape(line).replace("…", ".*") + r"\n"
        for line in lines
    ]
    return "".join(parts)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_a_page_prints_what_it_shows(
    path: Path,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", "1")  # as on a terminal: lines come as they are printed
    page = read_page(path)
    dsn = request.getfixturevalue("postgres_dsn") if page.needs_postgres else None
    lines = run_page(page, tmp_path, dsn).splitlines()
    printed = "".join(f"{line}\n" for line in lines if not _RUNNER.match(line))
    expected = "\n".join(shown(path))
    assert re.fullmatch(pattern(shown(path)), printed), (
        f"{path.name} shows:\n{expected}\n\nbut it prints:\n{printed}"
    )


def test_there_are_pages() -> None:
    assert len(PAGES) >= 10
    assert not re.fullmatch(pattern(["one", "…", "two …"]), "one\ntwo\n")
    assert re.fullmatch(pattern(["one", "…", "two …"]), "one\n1\n2\ntwo 3\n")
