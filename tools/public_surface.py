"""Write down what users can rely on: every public name, with its kind and its signature.

`tests/public_surface.txt` holds it, so that no change of it goes unnoticed. It is read from the
source, as written, and nothing is imported: so it is the same on every Python. What counts:

- the names that a package lists in ``__all__``, and those that a module of `MODULES` lists there
  (without an ``__all__``, those that it defines without an underscore): these are public without a
  package that lists them;
- of a class its parameters, attributes, properties and methods, with those of its bases that aren't
  public themselves. A suite's tests aren't named: who subclasses the suite gets them all.

Each thing is told once, under its shortest name. In which file it is defined isn't told.
"""

import ast
import sys
from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
EXPECTED = Path(__file__).parents[1] / "tests" / "public_surface.txt"

# Public modules in packages that have no __all__; those that take names from others have their own.
MODULES = (
    "standfast.errors",
    "standfast.integrations.alembic",
    "standfast.integrations.asgi",
    "standfast.integrations.fastapi",
    "standfast.integrations.flask",
    "standfast.integrations.grpc",
    "standfast.integrations.httpx",
    "standfast.integrations.sse",
    "standfast.integrations.starlette",
    "standfast.ports.circuit_control",
    "standfast.ports.database",
    "standfast.ports.journal",
    "standfast.ports.leases",
    "standfast.ports.rate_limit",
)
HEADER = (
    "# Every public name with its signature. `make surface` writes this file; see CONTRIBUTING.md."
)
WIDTH = 100

# Python calls these, or they only concern how an object shows itself.
_NOT_TOLD = {
    "__init_subclass__",
    "__post_init__",
    "__repr__",
    "__set_name__",
    "__slots__",
    "__str__",
}
# Told by a word of its own, or of no concern to who calls.
_SILENT = {"abstractmethod", "override", "overload", "property", "staticmethod", "classmethod"}
_PROPERTIES = {"property", "cached_property"}

Function = ast.FunctionDef | ast.AsyncFunctionDef
Place = tuple[str, str]  # a module and the name there


@dataclass
class Bindings:
    """What a module binds at its top: definitions, and names from elsewhere."""

    defined: dict[str, list[ast.stmt]] = field(default_factory=dict)
    imported: dict[str, Place] = field(default_factory=dict)


def path_of(module: str, source: Path) -> Path | None:
    """The file of a module, or None where it isn't ours."""
    base = source.joinpath(*module.split("."))
    for path in (base / "__init__.py", base.with_suffix(".py")):
        if path.is_file():
            return path
    return None


@cache
def bindings(module: str, source: Path) -> Bindings | None:
    """What `module` binds, also under TYPE_CHECKING, or None where it isn't ours."""
    path = path_of(module, source)
    if path is None:
        return None
    found = Bindings()
    for node in statements(ast.parse(path.read_text(encoding="utf-8"), str(path)).body):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                up = node.level - (path.name == "__init__.py")
                base = ".".join([*parts[: len(parts) - up], *([base] if base else [])])
            for alias in node.names:
                found.imported[alias.asname or alias.name] = (base, alias.name)
        elif isinstance(node, Function | ast.ClassDef):
            found.defined.setdefault(node.name, []).append(node)
        elif name := assigned(node):
            found.defined.setdefault(name, []).append(node)
    return found


def statements(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a body, with those that stand under an `if` or a `try`."""
    for node in body:
        if isinstance(node, ast.If | ast.Try):
            yield from statements([*node.body, *node.orelse])
        else:
            yield node


def assigned(node: ast.stmt) -> str | None:
    """The name that an assignment binds, if it is one to a single name."""
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    # `type X = …` of Python 3.12, by its name, since 3.11 doesn't know it.
    if type(node).__name__ == "TypeAlias":
        return ast.unparse(node.name)  # type: ignore[attr-defined]
    return None


def locate(module: str, name: str, source: Path) -> Place:
    """Where `name` of `module` is defined, through all re-exports."""
    known = bindings(module, source)
    if known is None or name in known.defined:
        return module, name
    place = known.imported.get(name, (module, name))
    # A package that imports a module of its own says that it has it from itself.
    return place if place == (module, name) else locate(*place, source)


# -- which names are public ------------------------------------------------------------------


def listed(module: str, source: Path) -> list[str] | None:
    """The names in a module's ``__all__``, or None if it has none."""
    known = bindings(module, source)
    for node in known.defined.get("__all__", ()) if known else ():
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            return [str(name) for name in ast.literal_eval(node.value)]
    return None


def public_names(source: Path = SOURCE, modules: Iterable[str] = MODULES) -> dict[str, list[str]]:
    """The public packages and modules, each with its public names, in alphabetical order."""
    found: dict[str, list[str]] = {}
    for path in source.rglob("__init__.py"):
        package = ".".join(path.parent.relative_to(source).parts)
        names = listed(package, source)
        if names is not None and "._" not in package:
            found[package] = sorted(names)
    for module in modules:
        known = bindings(module, source)
        if known is None:
            raise LookupError(f"{module} is to be public, but there is no such module")
        defined = [
            name
            for name, nodes in known.defined.items()
            # A type variable is a word of the module's own.
            if not name.startswith("_") and not _is_type_variable(nodes[-1])
        ]
        found[module] = sorted(listed(module, source) or defined)
    return dict(sorted(found.items()))


def _is_type_variable(node: ast.stmt) -> bool:
    value = node.value if isinstance(node, ast.Assign) else None
    return isinstance(value, ast.Call) and _last(value.func) in ("TypeVar", "ParamSpec")


# -- how they are told -----------------------------------------------------------------------


def _last(node: ast.expr) -> str:
    """The last word of a dotted name, of what is called or subscripted."""
    if isinstance(node, ast.Call):
        return _last(node.func)
    if isinstance(node, ast.Subscript):
        return _last(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


class _Unquoted(ast.NodeTransformer):
    """Annotations without quotes, in one way of writing for those that mean the same."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        kind = _last(node.value)
        if kind in ("Literal", "Annotated"):
            return node
        self.generic_visit(node)
        if kind == "Optional":
            return ast.BinOp(node.slice, ast.BitOr(), ast.Constant(None))
        if kind == "Union" and isinstance(node.slice, ast.Tuple):
            one, *others = node.slice.elts
            for other in others:
                one = ast.BinOp(one, ast.BitOr(), other)
            return one
        return node

    def visit_Constant(self, node: ast.Constant) -> ast.expr:
        if isinstance(node.value, str):
            inner: ast.expr = self.visit(ast.parse(node.value, mode="eval").body)
            return inner
        return node


def type_text(node: ast.expr) -> str:
    """An annotation as text."""
    return ast.unparse(_Unquoted().visit(deepcopy(node)))


def parameters(arguments: ast.arguments) -> list[str]:
    """Each parameter as it is written, with the markers between their kinds."""

    def text(argument: ast.arg, default: ast.expr | None = None) -> str:
        told = argument.arg
        if argument.annotation is not None:
            told += f": {type_text(argument.annotation)}"
        if default is None:
            return told
        return f"{told}{' = ' if argument.annotation else '='}{ast.unparse(default)}"

    positional = arguments.posonlyargs + arguments.args
    bare: list[ast.expr | None] = [None] * (len(positional) - len(arguments.defaults))
    defaults = [*bare, *arguments.defaults]
    told = [text(*pair) for pair in zip(positional, defaults, strict=True)]
    if arguments.posonlyargs:
        told.insert(len(arguments.posonlyargs), "/")
    if arguments.vararg:
        told.append("*" + text(arguments.vararg))
    elif arguments.kwonlyargs:
        told.append("*")
    told += [text(*pair) for pair in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]
    if arguments.kwarg:
        told.append("**" + text(arguments.kwarg))
    return told


def signature(lead: str, parts: list[str], returns: str | None, indent: str) -> list[str]:
    """A signature on one line, or with a line for each parameter where that is too long."""
    end = ")" if returns is None else f") -> {returns}"
    line = f"{indent}{lead}({', '.join(parts)}{end}"
    if len(line) <= WIDTH:
        return [line]
    return [f"{indent}{lead}(", *(f"{indent}    {part}," for part in parts), f"{indent}{end}"]


def told_function(name: str, nodes: list[ast.stmt], indent: str = "") -> list[str]:
    """The lines of a function: of its overloads, where it has them."""
    functions = [node for node in nodes if isinstance(node, Function)]
    decorators = [[_last(each) for each in node.decorator_list] for node in functions]
    if any(_PROPERTIES.intersection(names) for names in decorators):
        returns = functions[0].returns
        settable = " (can be set)" if any("setter" in names for names in decorators) else ""
        told = type_text(returns) if returns is not None else "?"
        return [f"{indent}{name}: property {told}{settable}"]
    overloads = [
        node for node, names in zip(functions, decorators, strict=True) if "overload" in names
    ]
    lines: list[str] = []
    for node in overloads or functions[-1:]:
        names = [_last(each) for each in node.decorator_list]
        words: list[str] = [name for name in names if name in ("classmethod", "staticmethod")]
        words += [
            "@" + ast.unparse(each) for each in node.decorator_list if _last(each) not in _SILENT
        ]
        words.append("async def" if isinstance(node, ast.AsyncFunctionDef) else "def")
        returned = type_text(node.returns) if node.returns is not None else None
        lead = f"{' '.join(words)} {name}"
        lines += signature(lead, parameters(node.args), returned, indent)
    return lines


def told_value(name: str, node: ast.stmt, indent: str = "") -> str:
    """The line of a constant, an alias or an attribute."""
    if isinstance(node, ast.AnnAssign):
        annotation = type_text(node.annotation)
        if node.value is None:
            return f"{indent}{name}: {annotation}"
        told = type_text(node.value) if annotation == "TypeAlias" else ast.unparse(node.value)
        return f"{indent}{name}: {annotation} = {told}"
    value = getattr(node, "value", None)
    if not isinstance(value, ast.expr) or name.endswith("__"):
        return f"{indent}{name}"  # of `__version__`, releases change the value
    return f"{indent}{name} = {ast.unparse(value)}"


@dataclass
class Surface:
    """The surface of the package in `source`, told name by name."""

    source: Path = SOURCE
    modules: tuple[str, ...] = MODULES

    def __post_init__(self) -> None:
        self.names = public_names(self.source, self.modules)
        # The shortest name of each thing, by where it is defined.
        self.home: dict[Place, str] = {}
        everywhere = [(module, name) for module, names in self.names.items() for name in names]
        for module, name in sorted(everywhere, key=lambda pair: (pair[0].count("."), pair)):
            self.home.setdefault(locate(module, name, self.source), f"{module}.{name}")

    def text(self) -> str:
        """All of it."""
        lines = [HEADER]
        for module, names in self.names.items():
            lines += ["", f"# {module}"]
            for name in names:
                lines += self._told(module, name)
        return "\n".join(lines) + "\n"

    def _told(self, module: str, name: str) -> list[str]:
        full = f"{module}.{name}"
        place = locate(module, name, self.source)
        home = self.home[place]
        if home != full:
            return [f"{full} is {home}"]
        known = bindings(place[0], self.source)
        nodes = known.defined.get(place[1], []) if known else []
        if not nodes:
            inner = ".".join(place)
            return [f"{full} is {'module ' * bool(path_of(inner, self.source))}{inner}"]
        if isinstance(nodes[-1], ast.ClassDef):
            return self._told_class(full, place[0], nodes[-1])
        if isinstance(nodes[-1], Function):
            return told_function(full, nodes)
        return [told_value(full, nodes[-1])]

    def _told_class(self, full: str, module: str, node: ast.ClassDef) -> list[str]:
        bases = [type_text(base) for base in node.bases]
        bases += [f"{each.arg}={ast.unparse(each.value)}" for each in node.keywords]
        record = _dataclass(node)
        kind = f"@{ast.unparse(record)} class" if record else "class"
        lines = [f"{kind} {full}({', '.join(bases)})" if bases else f"{kind} {full}"]
        members = self._members(module, node)
        if self._is_record(module, node) and "__init__" not in members:
            lines += signature("def __init__", self._fields(module, node), None, "    ")
        for name, nodes in sorted(members.items()):
            if isinstance(nodes[-1], Function):
                lines += told_function(name, nodes, "    ")
            elif not isinstance(nodes[-1], ast.ClassDef):
                lines.append(self._told_attribute(module, node, name, nodes[-1]))
        return lines

    def _told_attribute(self, module: str, owner: ast.ClassDef, name: str, node: ast.stmt) -> str:
        # A record's defaults stand in its signature.
        if (
            isinstance(node, ast.AnnAssign)
            and _last(node.annotation) != "ClassVar"
            and self._is_record(module, owner)
        ):
            return f"    {name}: {type_text(node.annotation)}"
        return told_value(name, node, "    ")

    def _bases(self, module: str, node: ast.ClassDef) -> Iterator[tuple[str, ast.ClassDef, Place]]:
        """The bases that are ours, with the module that each is defined in."""
        for base in node.bases:
            inner = base.value if isinstance(base, ast.Subscript) else base
            if not isinstance(inner, ast.Name):
                continue
            place = locate(module, inner.id, self.source)
            known = bindings(place[0], self.source)
            for definition in known.defined.get(place[1], [])[-1:] if known else ():
                if isinstance(definition, ast.ClassDef):
                    yield place[0], definition, place

    def _members(self, module: str, node: ast.ClassDef) -> dict[str, list[ast.stmt]]:
        """The public members, by name, with those of bases that aren't told themselves."""
        members: dict[str, list[ast.stmt]] = {}
        for base_module, base, place in reversed(list(self._bases(module, node))):
            if place not in self.home:
                members.update(self._members(base_module, base))
        own: dict[str, list[ast.stmt]] = {}
        for inner in statements(node.body):
            name = inner.name if isinstance(inner, Function) else assigned(inner)
            if name is not None:
                own.setdefault(name, []).append(inner)
            if isinstance(inner, Function) and inner.name == "__init__":
                for attribute in _given_to_self(inner):
                    own.setdefault(str(assigned(attribute)), []).append(attribute)
        members.update({name: nodes for name, nodes in own.items() if _is_told(name)})
        return members

    def _is_record(self, module: str, node: ast.ClassDef) -> bool:
        """Whether a class's annotations are its parameters."""
        if _dataclass(node) is not None:
            return True
        if any(_last(base) in ("NamedTuple", "Struct") for base in node.bases):
            return True
        return any(self._is_record(*base[:2]) for base in self._bases(module, node))

    def _fields(self, module: str, node: ast.ClassDef) -> list[str]:
        """The parameters that a record's annotations make."""
        options = _dataclass(node)
        keywords = [*node.keywords, *(options.keywords if isinstance(options, ast.Call) else [])]
        all_named = any(
            each.arg == "kw_only" and getattr(each.value, "value", None) for each in keywords
        )
        found: dict[str, tuple[bool, str]] = {}
        for owner in self._line(module, node):
            named = all_named
            for inner in statements(owner.body):
                if not isinstance(inner, ast.AnnAssign) or not isinstance(inner.target, ast.Name):
                    continue
                if _last(inner.annotation) == "ClassVar":
                    continue
                if _last(inner.annotation) == "KW_ONLY":
                    named = True
                    continue
                told = _parameter_of(inner)
                if told is not None:
                    found[inner.target.id] = (named, told)
        positional = [told for named, told in found.values() if not named]
        by_name = [told for named, told in found.values() if named]
        return ["self", *positional, *(["*", *by_name] if by_name else [])]

    def _line(self, module: str, node: ast.ClassDef) -> Iterator[ast.ClassDef]:
        """The records that a record is made of, the outermost base first."""
        for base_module, base, _ in reversed(list(self._bases(module, node))):
            if self._is_record(base_module, base):
                yield from self._line(base_module, base)
        yield node


def _dataclass(node: ast.ClassDef) -> ast.expr | None:
    """The decorator that makes a dataclass of a class."""
    return next((each for each in node.decorator_list if _last(each) == "dataclass"), None)


def _is_told(name: str) -> bool:
    if name.startswith("__") and name.endswith("__"):
        return name not in _NOT_TOLD
    return not name.startswith(("_", "test_"))


def _given_to_self(init: Function) -> Iterator[ast.AnnAssign]:
    """The attributes that ``__init__`` gives, typed by themselves or by the parameter they are."""
    types = {argument.arg: argument.annotation for argument in init.args.args}
    types |= {argument.arg: argument.annotation for argument in init.args.kwonlyargs}
    for node in ast.walk(init):
        annotation: ast.expr | None = None
        target: ast.expr | None = None
        if isinstance(node, ast.AnnAssign):
            target, annotation = node.target, node.annotation
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Name):
            target, annotation = node.targets[0], types.get(node.value.id)
        if (
            annotation is not None
            and isinstance(target, ast.Attribute)
            and isinstance(target.value, ast.Name)
            and target.value.id == "self"
        ):
            yield ast.AnnAssign(ast.Name(target.attr), annotation, None, 1)


def _parameter_of(node: ast.AnnAssign) -> str | None:
    """A record's field as a parameter, or None if it is none."""
    told = f"{ast.unparse(node.target)}: {type_text(node.annotation)}"
    value = node.value
    if isinstance(value, ast.Call) and _last(value) == "field":
        options = {option.arg: option.value for option in value.keywords}
        if getattr(options.get("init"), "value", True) is False:
            return None
        factory = options.get("default_factory")
        if factory is not None:
            return f"{told} = {ast.unparse(ast.Call(factory, [], []))}"
        value = options.get("default")
    return told if value is None else f"{told} = {ast.unparse(value)}"


def main() -> int:
    """Write the surface as it is now."""
    text = Surface().text()
    EXPECTED.write_text(text, encoding="utf-8")
    print(f"public surface: {len(text.splitlines())} lines in {EXPECTED}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
