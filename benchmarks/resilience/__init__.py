"""What resilience policies cost over the bare call, next to other libraries in the same run."""

from __future__ import annotations

import importlib
import pkgutil


def main(arguments: list[str]) -> int:
    """Run the benchmarks named, or all."""
    modules = {
        name: importlib.import_module(f"{__name__}.{name}")
        for _, name, _ in pkgutil.iter_modules(__path__)
    }
    subjects = {name: module for name, module in modules.items() if hasattr(module, "main")}
    unknown = set(arguments) - subjects.keys()
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there are: {', '.join(subjects)}")
        return 2
    for name in arguments or subjects:
        subjects[name].main()
    return 0
