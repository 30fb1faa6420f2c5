"""Run the blocks of one page in the current folder: `python -m tests.docs.run_page PAGE`.

The page is `__main__`, so that classes defined on it are found by their module as usual.
"""

import ast
import asyncio
import importlib
import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

from tests.docs.blocks import Block, PageError, read_page


def main() -> None:
    """Run every block, in order; the first that fails ends it with a traceback."""
    page = read_page(Path(sys.argv[1]))
    here = Path.cwd()
    sys.path.insert(0, str(here))
    # A file may be rewritten within the second, which a cached compilation wouldn't see.
    sys.dont_write_bytecode = True
    module = ModuleType("__main__")
    sys.modules["__main__"] = module
    if page.needs_postgres:
        module.__dict__["DSN"] = os.environ["DSN"]
    with asyncio.Runner() as runner:
        for block in page.blocks:
            if block.skip_reason is not None:
                print(f"skip {block.place}: {block.skip_reason}", flush=True)
            elif block.language == "console":
                _run_commands(block)
            elif block.title is not None:
                _import_file(block, module, here / block.title)
            else:
                _run(block, module, runner)


def _run(block: Block, module: ModuleType, runner: asyncio.Runner) -> None:
    print(f"run {block.place}", flush=True)
    tree = ast.parse(block.code, str(block.page))
    ast.increment_lineno(tree, block.line - 1)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    # Without dont_inherit the block would get this file's own __future__ imports.
    code = compile(tree, str(block.page), "exec", flags, dont_inherit=True)
    waiting = eval(code, module.__dict__)
    if inspect.iscoroutine(waiting):
        runner.run(waiting)


def _import_file(block: Block, module: ModuleType, path: Path) -> None:
    print(f"import {block.place} as {path.name}", flush=True)
    if not re.fullmatch(r"[a-z_][a-z0-9_]*\.py", path.name):
        raise PageError(f"{block.place}: title={path.name!r} isn't the name of a module")
    if block.appends and not path.exists():
        raise PageError(f"{block.place}: there is no {path.name} to append to")
    before = f"{path.read_text()}\n\n" if block.appends else ""
    path.write_text(before + block.code)
    sys.modules.pop(path.stem, None)
    importlib.invalidate_caches()
    imported = importlib.import_module(path.stem)
    names = {name: value for name, value in vars(imported).items() if not name.startswith("__")}
    module.__dict__.update(names)


def _run_commands(block: Block) -> None:
    commands = re.sub(r"\\\n", " ", block.code).splitlines()
    commands = [line.removeprefix("$ ") for line in commands if line.startswith("$ ")]
    if not commands:
        raise PageError(f"{block.place}: no line starts with '$ '")
    for command in commands:
        print(f"run {block.place}: {command}", flush=True)
        program, *arguments = shlex.split(os.path.expandvars(command), comments=True)
        if program not in ("standfast", "python"):
            raise PageError(f"{block.place}: only standfast and python are run, not {program!r}")
        subprocess.run([Path(sys.executable).with_name(program), *arguments], check=True)


if __name__ == "__main__":
    main()
