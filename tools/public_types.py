"""Hold the public API to complete types: what a user's type checker sees is never inferred.

Public is what `standfast` and its packages list in `__all__`. Pyright's `--verifytypes` judges;
what it says of inner modules is left out, and of the conformance suites, whose fixtures have
pytest's own types, which aren't complete.
"""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import standfast


def public_symbols() -> set[str]:
    """The full names, as pyright gives them, of everything public."""
    packages = ["standfast"] + [
        module.name
        for module in pkgutil.iter_modules(standfast.__path__, "standfast.")
        if module.name != "standfast.conformance"
    ]
    symbols = set()
    for package in map(importlib.import_module, packages):
        for name in getattr(package, "__all__", ()):
            value = getattr(package, name)
            defined_in = getattr(value, "__module__", package.__name__)
            symbols.add(f"{defined_in}.{getattr(value, '__qualname__', name)}")
    return symbols


def main() -> int:
    """Print what isn't fully typed; the exit code is 1 if there is any."""
    # Pyright looks for the package in the environment that it finds by PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "standfast", "--outputjson"],
        stdout=subprocess.PIPE,
        check=False,
        env={**os.environ, "PATH": path},
    )
    known = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    public = public_symbols()
    judged = [
        symbol
        for symbol in known
        if any(f"{symbol['name']}.".startswith(f"{name}.") for name in public)
    ]
    wrong = [symbol for symbol in judged if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]]
    for symbol in wrong:
        for told in symbol["diagnostics"]:
            line = told.get("range", {}).get("start", {}).get("line", 0) + 1
            print(f"{told['file']}:{line}: {symbol['name']}: {told['message']}")
    print(f"public types: {len(public)} names, {len(judged)} symbols, {len(wrong)} incomplete")
    # Finding nothing to judge means that pyright didn't find the package.
    return int(bool(wrong) or not judged)


if __name__ == "__main__":
    sys.exit(main())
