"""Hold the source free of circular imports, also of those that only a type checker follows.

Each module's imports are read from its source: those at the top, those under ``TYPE_CHECKING`` and
those inside functions. So none is hidden: a circle that an import in a function makes run is a
circle still, and two modules that need each other are one.

``from package import Name`` is an import of the package's ``__init__``, with one exception. Where
that gives its names lazily, by ``standfast.lazy.exports``, it imports them under ``TYPE_CHECKING``
only, and nobody loads more than the module that `Name` is from: so that module is what is imported.
Not so within the package. There ``__init__`` needs the member that asks it, lazily or not.
"""

import ast
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src" / "standfast"


class Line(NamedTuple):
    """Where a module imports another: the line of its file, and how it stands there."""

    number: int
    text: str


@dataclass
class Module:
    """A module of the source, with what it imports."""

    name: str
    path: Path
    # What it imports under TYPE_CHECKING, by name: the module that is from, and the name there, or
    # no name where the module itself is meant.
    lazy: dict[str, tuple[str, str | None]] = field(default_factory=dict)
    imports: dict[str, Line] = field(default_factory=dict)

    @property
    def is_package(self) -> bool:
        """Whether it is the ``__init__`` of a package."""
        return self.path.name == "__init__.py"


Modules = dict[str, Module]


def read(source: Path) -> Modules:
    """The modules of the package `source`, with their imports of each other."""
    modules: Modules = {}
    trees: dict[str, ast.Module] = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        modules[name] = Module(name, path)
        trees[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for name, tree in trees.items():
        _read_lazy(modules[name], tree, modules)
    for name, tree in trees.items():
        for node, target in _targets(modules[name], tree, modules):
            if target != name:
                line = Line(node.lineno, textwrap.shorten(ast.unparse(node), 90))
                modules[name].imports.setdefault(target, line)
    return modules


def _base(module: Module, node: ast.ImportFrom) -> str:
    """The full name of what `node` imports from."""
    if not node.level:
        return node.module or ""
    up = node.level - module.is_package
    package = module.name.split(".")
    package = package[: len(package) - up]
    return ".".join([*package, *([node.module] if node.module else [])])


def _read_lazy(module: Module, tree: ast.Module, modules: Modules) -> None:
    """Note what `module` imports under TYPE_CHECKING."""
    for block in tree.body:
        if not isinstance(block, ast.If) or not ast.unparse(block.test).endswith("TYPE_CHECKING"):
            continue
        for node in block.body:
            if isinstance(node, ast.ImportFrom):
                base = _base(module, node)
                for alias in node.names:
                    inner = f"{base}.{alias.name}"
                    source = (inner, None) if inner in modules else (base, alias.name)
                    module.lazy[alias.asname or alias.name] = source


def _targets(
    module: Module, tree: ast.Module, modules: Modules
) -> Iterator[tuple[ast.Import | ast.ImportFrom, str]]:
    """The modules of the source that `module` imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in modules:
                    yield node, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = _base(module, node)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in modules:
                    yield node, inner
                elif base in modules:
                    yield node, _home(base, alias.name, module.name, modules)


def _home(base: str, name: str, importer: str, modules: Modules) -> str:
    """The module that an import of `name` from `base` needs, for the module `importer`."""
    seen = set()
    while name in modules[base].lazy and base not in seen:
        seen.add(base)
        home, inner = modules[base].lazy[name]
        within = f"{importer}.".startswith(f"{base}.")
        if within or not modules[base].is_package or home not in modules:
            break
        if inner is None:
            return home
        base, name = home, inner
    return base


def components(modules: Modules) -> list[set[str]]:
    """The strongly connected components of more than one module, by Tarjan's algorithm (1972)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []
    for root in modules:
        if root in order:
            continue
        # With a stack of its own instead of recursion, which Python bounds.
        work = [(root, iter(modules[root].imports))]
        order[root] = lowest[root] = len(order)
        stack.append(root)
        while work:
            name, rest = work[-1]
            following = next(rest, None)
            if following is None:
                work.pop()
                if work:
                    lowest[work[-1][0]] = min(lowest[work[-1][0]], lowest[name])
                if lowest[name] == order[name]:
                    at = stack.index(name)
                    if len(stack) - at > 1:
                        found.append(set(stack[at:]))
                    del stack[at:]
            elif following not in order:
                order[following] = lowest[following] = len(order)
                stack.append(following)
                work.append((following, iter(modules[following].imports)))
            elif following in stack:
                lowest[name] = min(lowest[name], order[following])
    return sorted(found, key=min)


def shortest(part: Iterable[str], modules: Modules) -> list[str]:
    """A shortest circle within `part`: whoever mends the whole has to cut this one too."""
    inside = set(part)
    best: list[str] = []
    for start in sorted(inside):
        came_from: dict[str, str] = {}
        waiting = [start]
        for name in waiting:
            for following in sorted(inside.intersection(modules[name].imports)):
                if following == start:
                    way = [name]
                    while way[-1] != start:
                        way.append(came_from[way[-1]])
                    if not best or len(way) < len(best):
                        best = way[::-1]
                elif following not in came_from:
                    came_from[following] = name
                    waiting.append(following)
    return best


def main(source: Path = SOURCE) -> int:
    """Print the circles, import by import; the exit code is 1 if there are any."""
    modules = read(source)
    if not modules:
        print(f"import circles: no Python files in {source}")
        return 1
    parts = components(modules)
    for number, part in enumerate(parts, start=1):
        print(f"circle {number}, of {len(part)} modules: {', '.join(sorted(part))}")
        way = shortest(part, modules)
        for name, following in zip(way, [*way[1:], way[0]], strict=True):
            _tell(modules[name], following, source)
        on_the_way = set(zip(way, [*way[1:], way[0]], strict=True))
        others = [
            (name, following)
            for name in sorted(part)
            for following in sorted(part.intersection(modules[name].imports))
            if (name, following) not in on_the_way
        ]
        if others:
            print("  and, in the same knot:")
        for name, following in others:
            _tell(modules[name], following, source)
    print(f"import circles: {len(modules)} modules, {len(parts)} circles")
    return int(bool(parts))


def _tell(module: Module, following: str, source: Path) -> None:
    line = module.imports[following]
    place = f"{module.path.relative_to(source.parent)}:{line.number}"
    print(f"  {module.name} -> {following}\n      {place}: {line.text}")


if __name__ == "__main__":
    sys.exit(main())
