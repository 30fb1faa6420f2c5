"""Hold the tree free of addresses of package indexes, so that each machine takes its own.

A mirror or a private index is set on a machine, for pip or for uv; an address that a file names
would go around it. Judged are the files that git tracks, and those that it would.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

# In parts, since this file is judged as well. A host stands for those under it, too.
HOSTS = [
    ".".join(parts)
    for parts in (
        ("pypi", "org"),
        ("pypi", "python", "org"),
        ("pythonhosted", "org"),
        ("anaconda", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("crates", "io"),
        ("proxy", "golang", "org"),
        ("rubygems", "org"),
        ("maven", "apache", "org"),
        ("maven", "org"),
        ("deb", "debian", "org"),
    )
]
_HOST = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, HOSTS))})(?![\w-])", re.IGNORECASE)

# Only with an address behind it: a variable may be called registry, and a page may name an option.
_SETTING = re.compile(
    r"(?:index[-_]url|default[-_]index|registry)[\"']?\s*[:=\s]\s*[\"']?[a-z+]+://", re.IGNORECASE
)


def addresses(text: str) -> Iterator[tuple[int, str]]:
    """The lines of `text` that name an index or set one, with their numbers."""
    for number, line in enumerate(text.splitlines(), start=1):
        if _HOST.search(line) or _SETTING.search(line):
            yield number, line.strip()


def main(root: Path = Path(__file__).parents[1]) -> int:
    """Print the lines that name an index; the exit code is 1 if there are any."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        stdout=subprocess.PIPE,
        check=True,
    )
    files = [root / name for name in listed.stdout.decode().split("\0") if name]
    found = 0
    for path in sorted(path for path in files if path.is_file()):
        # What isn't text isn't read as text by anyone else either, but may hold an address.
        for number, line in addresses(path.read_text(encoding="utf-8", errors="replace")):
            found += 1
            print(f"{path.relative_to(root)}:{number}: names a package index: {line[:120]}")
    print(f"index addresses: {len(files)} files, {found} addresses")
    # Without any file, git didn't say what the tree consists of.
    return int(found > 0 or not files)


if __name__ == "__main__":
    sys.exit(main())
