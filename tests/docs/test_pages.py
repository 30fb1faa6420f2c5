"""Each page of the documentation is one test; `tests.docs` says how a page is run."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT, Page, PageError, pages, read_page

WITHIN = 120.0


def run_page(page: Page, folder: Path, dsn: str | None = None) -> str:
    """Run a page in `folder` and return what it printed; fail the test where the page fails."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.docs.run_page", str(page.path)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)} | ({} if dsn is None else {"DSN": dsn}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=WITHIN)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        pytest.fail(f"{page.path.name} still ran after {WITHIN:.0f} s:\n{printed}", pytrace=False)
    if process.returncode != 0:
        pytest.fail(f"{page.path.name} doesn't run:\n{printed}", pytrace=False)
    return printed


def _cases() -> list[Any]:
    """All pages; `make quick` runs those that everybody reads first."""
    first = ("README.md", "docs/index.md")
    names = [str(page.path.relative_to(ROOT)) for page in pages()]
    return [
        pytest.param(page, id=name, marks=() if name in first else pytest.mark.slow)
        for page, name in zip(pages(), names, strict=True)
    ]


@pytest.mark.parametrize("page", _cases())
def test_page(page: Page, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    dsn = request.getfixturevalue("postgres_dsn") if page.needs_postgres else None
    print(run_page(page, tmp_path, dsn))


def test_what_is_installed_is_a_checkout_on_every_page() -> None:
    """No index of packages has the library, so a line that asks one for it doesn't work."""
    names = {
        (page.path.name, name)
        for page in pages()
        for name in re.findall(
            r"pip install ([^`\n]*standfast\b|'?\.)", page.path.read_text("utf-8")
        )
    }
    assert {name for _, name in names} == {"'/path/to/standfast", "'."}
    assert ("fastapi.md", "'/path/to/standfast") in names


def written(folder: Path, text: str) -> Page:
    path = folder / "page.md"
    path.write_text(text)
    return read_page(path)


def test_blocks_share_names_and_files(tmp_path: Path) -> None:
    page = written(
        tmp_path,
        """
```python title="shop.py"
price = 3
```
```python
import asyncio
from shop import price as imported
print("sum", price + imported)
async def add(number):
    await asyncio.sleep(0)
    return price + number
```

- in a list:

    ```python
    print("as a file", __name__, asyncio.run(add(1)))
    ```

```python title="shop.py"
price = 4
```
```python
import shop
print("now", shop.price, price)
```
<!-- test: append -->
```python title="shop.py"
tax = price / 4
```
```python
print("with tax", price + tax)
```
```text
not python
```
""",
    )
    printed = run_page(page, tmp_path).splitlines()
    assert [line for line in printed if not line.startswith(("run", "import"))] == [
        "sum 6",
        "as a file __main__ 4",
        "now 4 4",
        "with tax 5.0",
    ]


@pytest.mark.parametrize("code", ["assert 1 == 2", "missing()", "import shop", "1 +"])
def test_a_block_that_fails_fails_its_page_and_says_where(tmp_path: Path, code: str) -> None:
    page = written(tmp_path, f"# Page\n\n```python\nprint(1)\n{code}\n```\n")
    with pytest.raises(pytest.fail.Exception, match=r'page\.md", line 5'):
        run_page(page, tmp_path)


@pytest.mark.parametrize(
    "code",
    [
        "await missing()",
        "async with missing():\n    pass",
        "async for one in missing():\n    pass",
        "print([one async for one in missing()])",
        "def plain():\n    pass\nwith open('x'):\n    await missing()",
    ],
)
def test_what_a_file_may_not_do_is_refused_and_it_is_said_where(tmp_path: Path, code: str) -> None:
    page = written(tmp_path, f"# Page\n\n```python\nprint(1)\n{code}\n```\n")
    line = 5 + [("async " in line or "await" in line) for line in code.splitlines()].index(True)
    with pytest.raises(pytest.fail.Exception, match=rf"page\.md:{line}: `await` at top level"):
        run_page(page, tmp_path)


def test_a_command_may_run_beside_the_page(tmp_path: Path) -> None:
    page = written(
        tmp_path,
        """
```python title="beside.py"
import pathlib, sys, time
if __name__ == "__main__":
    try:
        pathlib.Path("begun").touch()
        while True:
            time.sleep(0.01)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(int(sys.argv[1]))
```
<!-- test: run -->
```console
$ python beside.py 0 &
$ touch there
```
```python
import pathlib, time
assert pathlib.Path("there").exists()
while not pathlib.Path("begun").exists():
    time.sleep(0.01)
print("the end")
```
""",
    )
    printed = run_page(page, tmp_path).splitlines()
    assert printed[-2:] == ["the end", "interrupted"]
    spoilt = page.path.read_text().replace("beside.py 0", "beside.py 3")
    again = tmp_path / "again"
    again.mkdir()
    with pytest.raises(pytest.fail.Exception, match="exit status 3"):
        run_page(written(again, spoilt), again)


def test_a_skipped_block_is_told(tmp_path: Path) -> None:
    text = "<!-- test: skip because it needs Kafka -->\n\n```python\nassert False\n```\n"
    assert run_page(written(tmp_path, text), tmp_path) == "skip page.md:4: it needs Kafka\n"


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("standfast no-such-command", "non-zero exit status"),
        ("rm -r x", "only standfast, python and touch"),
    ],
)
def test_a_command_that_fails_fails_its_page(tmp_path: Path, command: str, message: str) -> None:
    page = written(tmp_path, f"<!-- test: run -->\n```console\n$ {command}\n```\n")
    with pytest.raises(pytest.fail.Exception, match=message):
        run_page(page, tmp_path)


def test_a_page_is_given_its_database(tmp_path: Path) -> None:
    text = "<!-- test: postgres -->\n```python\nprint('at', DSN)\n```\n"
    printed = run_page(written(tmp_path, text), tmp_path, "postgresql://here")
    assert "at postgresql://here" in printed


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- test: skip -->\n```python\n```\n", "'skip' is none of"),
        ("<!-- test: skip because -->\n```python\n```\n", "is none of"),
        ("<!-- test: run -->\n```python\n```\n", "'run' is for console"),
        ("<!-- test: append -->\n```python\n```\n", "'append' is for python blocks with"),
        ("<!-- test: run -->\ntext\n```console\n```\n", "expected the block"),
        ("<!-- test: run -->\n", "no block after it"),
        ("<!-- test: run -->\n<!-- test: run -->\n", "two comments"),
        ("```py\n```\n", "write ```python"),
        ("```python\n", "no end"),
    ],
)
def test_what_is_not_understood_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PageError, match=message):
        written(tmp_path, text)
