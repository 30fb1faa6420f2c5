"""Hold the source to its size: few files over 400 lines, none over 600."""

import sys
from pathlib import Path

WARN, FAIL = 400, 600


def main() -> int:
    """Print the files that are too long; the exit code is 1 if any is over the limit."""
    source = Path(__file__).parents[1] / "src"
    lengths = {path: len(path.read_text().splitlines()) for path in source.rglob("*.py")}
    if not lengths:
        print(f"file lengths: no Python files in {source}")
        return 1
    for path, lines in sorted(lengths.items(), key=lambda item: -item[1]):
        if lines > WARN:
            verdict = "too long, split it" if lines > FAIL else "getting long"
            print(f"{path.relative_to(source.parent)}: {lines} lines, {verdict}")
    longest = max(lengths.values())
    print(f"file lengths: {len(lengths)} files, the longest has {longest} lines")
    return int(longest > FAIL)


if __name__ == "__main__":
    sys.exit(main())
