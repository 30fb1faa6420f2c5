"""Run the blocks of one page in the current folder: `python -m tests.docs.run_page PAGE`.

The page is `__main__`, so that classes defined on it are found by their module as usual, and what
stands at top level is what may stand there in a file.
"""

import ast
import importlib
import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import ExitStack
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
    with ExitStack() as until_the_end:
        for block in page.blocks:
            if block.skip_reason is not None:
                print(f"skip {block.place}: {block.skip_reason}", flush=True)
            elif block.language == "console":
                _run_commands(block, until_the_end)
            elif block.title is not None:
                _import_file(block, module, here / block.title)
            else:
                _run(block, module)


def _run(block: Block, module: ModuleType) -> None:
    print(f"run {block.place}", flush=True)
    source = "\n" * (block.line - 1) + block.code  # so that lines are those of the page
    try:
        # Without dont_inherit the block would get this file's own __future__ imports.
        code = compile(source, str(block.page), "exec", dont_inherit=True)
    except SyntaxError as error:
        if _can_wait(source, str(block.page)):
            raise PageError(
                f"{block.page.name}:{error.lineno}: `await` at top level isn't Python, so nobody "
                "can run this as a file: put it into `async def main()` and end with "
                "`asyncio.run(main())`, or wrap a lone call in `asyncio.run(…)`"
            ) from error
        raise
    exec(code, module.__dict__)


def _can_wait(source: str, name: str) -> bool:
    """Whether nothing is wrong but that it waits at top level, as only a console allows."""
    try:
        compile(source, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    except SyntaxError:
        return False
    return True


def _import_file(block: Block, module: ModuleType, path: Path) -> None:
    print(f"import {block.place} as {block.title}", flush=True)
    if not re.fullmatch(r"[a-z_][a-z0-9_]*\.py", path.name):
        raise PageError(f"{block.place}: title={path.name!r} isn't the name of a module")
    if block.appends and not path.exists():
        raise PageError(f"{block.place}: there is no {path.name} to append to")
    before = f"{path.read_text()}\n\n" if block.appends else ""
    path.write_text(before + block.code)
    if path.parent != Path.cwd():
        return  # of a project, which a command of the page runs
    sys.modules.pop(path.stem, None)
    importlib.invalidate_caches()
    imported = importlib.import_module(path.stem)
    names = {name: value for name, value in vars(imported).items() if not name.startswith("__")}
    module.__dict__.update(names)


def _run_commands(block: Block, until_the_end: ExitStack) -> None:
    commands = re.sub(r"\\\n", " ", block.code).splitlines()
    commands = [line.removeprefix("$ ") for line in commands if line.startswith("$ ")]
    if not commands:
        raise PageError(f"{block.place}: no line starts with '$ '")
    for command in commands:
        print(f"run {block.place}: {command}", flush=True)
        program, *arguments = shlex.split(os.path.expandvars(command), comments=True)
        if program not in ("standfast", "python", "touch"):
            raise PageError(
                f"{block.place}: only standfast, python and touch are run, not {program!r}"
            )
        path = program if program == "touch" else Path(sys.executable).with_name(program)
        if arguments[-1:] == ["&"]:
            beside = subprocess.Popen([path, *arguments[:-1]])
            until_the_end.callback(_interrupt, beside)
        else:
            subprocess.run([path, *arguments], check=True)


def _interrupt(process: subprocess.Popen[bytes]) -> None:
    """End what ran beside the page, as Ctrl-C does. It must have worked until then."""
    process.send_signal(signal.SIGINT)
    if code := process.wait(30):
        raise subprocess.CalledProcessError(code, process.args)


if __name__ == "__main__":
    main()
