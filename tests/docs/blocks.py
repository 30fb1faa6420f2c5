"""Read the fenced blocks of a Markdown page, and what its hidden comments ask for."""

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<language>[\w-]*)(?P<rest>[^`]*)$")
_TITLE = re.compile(r'title="([^"]+)"')
_DIRECTIVE = re.compile(r"^ *<!-- *test: *(?P<text>.*?) *-->$")
_NOT_RUN = {"py", "py3", "python3", "pycon"}


class PageError(Exception):
    """A page asks for something that can't be done; the message names page and line."""


@dataclass(frozen=True)
class Block:
    """One fenced block: its code starts on line `line` of `page`."""

    page: Path
    line: int
    language: str
    code: str
    title: str | None
    skip_reason: str | None
    appends: bool

    @property
    def place(self) -> str:
        """Where the block stands, as page:line."""
        return f"{self.page.name}:{self.line}"


@dataclass(frozen=True)
class Page:
    """The blocks of a page that are to be run, or skipped for a reason."""

    path: Path
    blocks: tuple[Block, ...]
    needs_postgres: bool


def pages() -> list[Page]:
    """README.md and every page below docs/ that has blocks to run or to skip."""
    paths = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in map(read_page, paths) if page.blocks]


def read_page(path: Path) -> Page:
    """Read a page; raise `PageError` where a comment or a fence isn't understood."""
    blocks: list[Block] = []
    needs_postgres = False
    directive: str | None = None
    lines = iter(enumerate(path.read_text().splitlines(), 1))
    for number, line in lines:
        place = f"{path.name}:{number}"
        if asked := _DIRECTIVE.match(line):
            if asked["text"] == "postgres":
                needs_postgres = True
            elif directive is not None:
                raise PageError(f"{place}: two comments for one block")
            elif asked["text"] in ("run", "append") or re.match(r"skip because \S", asked["text"]):
                directive = asked["text"]
            else:
                raise PageError(
                    f"{place}: {asked['text']!r} is none of 'run', 'append', 'skip because …', "
                    "'postgres'"
                )
        elif fence := _FENCE.match(line):
            code = []
            for _, inner in lines:
                if inner.strip() == fence["ticks"]:
                    break
                code.append(inner)
            else:
                raise PageError(f"{place}: this block has no end")
            if (block := _block(path, number, fence, code, directive)) is not None:
                blocks.append(block)
            directive = None
        elif line.strip() and directive is not None:
            raise PageError(f"{place}: expected the block that the comment above is for")
    if directive is not None:
        raise PageError(f"{path.name}: the last comment has no block after it")
    return Page(path, tuple(blocks), needs_postgres)


def _block(
    path: Path, number: int, fence: re.Match[str], code: list[str], directive: str | None
) -> Block | None:
    language = fence["language"]
    place = f"{path.name}:{number}"
    if language in _NOT_RUN:
        raise PageError(f"{place}: write ```python, blocks in {language!r} aren't run")
    skip_reason = None
    if directive is not None and directive not in ("run", "append"):
        skip_reason = directive.removeprefix("skip because ")
    runs = language == "python" or (language == "console" and directive == "run")
    if directive == "run" and language != "console":
        raise PageError(f"{place}: 'run' is for console blocks, this one is {language!r}")
    if not runs and skip_reason is None:
        return None
    found = _TITLE.search(fence["rest"])
    title = found[1] if found else None
    if directive == "append" and (language != "python" or title is None):
        raise PageError(f"{place}: 'append' is for python blocks with a title")
    text = textwrap.dedent("\n".join(code)) + "\n"
    return Block(path, number + 1, language, text, title, skip_reason, directive == "append")
