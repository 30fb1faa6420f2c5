"""``python -m benchmarks SUBJECT …``: each sub-package is a subject, with a ``main(arguments)``."""

import importlib
import pkgutil
import sys

import benchmarks


def main(arguments: list[str]) -> int:
    subjects = {
        module.name: importlib.import_module(f"benchmarks.{module.name}")
        for module in pkgutil.iter_modules(benchmarks.__path__)
        if module.ispkg
    }
    if arguments and arguments[0] in subjects:
        return int(subjects[arguments[0]].main(arguments[1:]) or 0)
    print("usage: python -m benchmarks SUBJECT …   (SUBJECT --help tells more)\n")
    for name, subject in subjects.items():
        print(f"  {name:12} {(subject.__doc__ or '').partition(chr(10))[0]}")
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
