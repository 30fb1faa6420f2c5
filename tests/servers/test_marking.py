from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.servers import marking
from tests.servers.redis import Redis


@dataclass
class Item:
    """What `marking` asks of a test."""

    fixturenames: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    marks: list[str] = field(default_factory=list)
    nodeid: str = "test_it.py::test_it"

    @property
    def callspec(self) -> SimpleNamespace:
        return SimpleNamespace(params=self.params)

    def add_marker(self, mark: pytest.MarkDecorator) -> None:
        self.marks.append(mark.name)

    def get_closest_marker(self, name: str) -> str | None:
        return name if name in self.marks else None


def page(folder: Path, text: str) -> Path:
    path = folder / "page.md"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("item", "marks"),
    [
        (Item(), []),
        (Item(("tmp_path",), {"app_url": "sqlite", "n": 3, "kind": dict}), []),
        # With the names of the fixtures that a fixture asks for.
        (Item(("direct", "postgres_dsn")), ["server"]),
        (Item(("app_url",), {"app_url": "postgres"}), ["server"]),
        (Item((), {"kind": Redis}), ["server"]),
    ],
)
def test_a_test_that_uses_a_server_is_marked(item: Any, marks: list[str]) -> None:
    marking.mark(item)
    assert item.marks == marks


def test_a_page_that_needs_postgres_is_marked(tmp_path: Path) -> None:
    block = "```python\n```\n"
    for text, marks in [
        (block, []),
        (f"<!-- test: postgres -->\n{block}", ["server"]),
        ("```py\n```\n", []),
    ]:
        item: Any = Item((), {"path": page(tmp_path, text)})
        marking.mark(item)
        assert item.marks == marks, text


def test_what_slips_through_fails() -> None:
    item: Any = Item()
    marking.check("tmp_path", item)
    with pytest.raises(pytest.fail.Exception, match=r"test_it uses redis_url.* mark the test"):
        marking.check("redis_url", item)
    item.marks.append("server")
    marking.check("redis_url", item)


def test_pytest_itself_marks(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("server") is None


@pytest.mark.parametrize("backend", ["postgres"])
def test_pytest_itself_marks_a_parameter(backend: str, request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("server") is not None
