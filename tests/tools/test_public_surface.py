import textwrap
from pathlib import Path

import pytest
from tools.public_surface import HEADER, Surface


def told(folder: Path, files: dict[str, str], *modules: str) -> list[str]:
    """The surface of a package of these files, without its heading."""
    for name, text in files.items():
        path = folder / "app" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    heading, *lines = Surface(folder, modules).text().splitlines()
    assert heading == HEADER
    return lines


def told_of(folder: Path, name: str, text: str) -> list[str]:
    """What is told of `name`, defined by this text."""
    lines = told(folder, {"__init__.py": f'__all__ = ["{name}"]\n' + textwrap.dedent(text)})
    assert lines[:2] == ["", "# app"]
    return lines[2:]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("def f(): ...", "def app.f()"),
        ("async def f(a, /, b=1, *c, d, **e): ...", "async def app.f(a, /, b=1, *c, d, **e)"),
        ("def f(a: int = 1, *, b: str) -> None: ...", "def app.f(a: int = 1, *, b: str) -> None"),
        ("def f(a: 'list[B]') -> 'B': ...", "def app.f(a: list[B]) -> B"),
        (
            "def f(a: Optional[int]) -> Union[A, 'B', C]: ...",
            "def app.f(a: int | None) -> A | B | C",
        ),
        ("def f(a: Literal['x']): ...", "def app.f(a: Literal['x'])"),
        ("@contextmanager\ndef f(): ...", "@contextmanager def app.f()"),
        ("f: TypeAlias = 'int | str'", "app.f: TypeAlias = int | str"),
        ("f: int = 3", "app.f: int = 3"),
        ("f = (1, 2)", "app.f = (1, 2)"),
        ("from json import dumps as f", "app.f is json.dumps"),
    ],
)
def test_functions_and_values(tmp_path: Path, text: str, line: str) -> None:
    assert told_of(tmp_path, "f", text) == [line]


def test_overloads_stand_for_their_function(tmp_path: Path) -> None:
    text = """
        @overload
        def f(a: int) -> int: ...
        @overload
        def f(a: str) -> str: ...
        def f(a): ...
    """
    assert told_of(tmp_path, "f", text) == ["def app.f(a: int) -> int", "def app.f(a: str) -> str"]


def test_a_long_signature_has_a_line_for_each_parameter(tmp_path: Path) -> None:
    text = f"def f({'a' * 50}: int, {'b' * 50}: int) -> None: ..."
    assert told_of(tmp_path, "f", text) == [
        "def app.f(",
        f"    {'a' * 50}: int,",
        f"    {'b' * 50}: int,",
        ") -> None",
    ]


def test_a_class(tmp_path: Path) -> None:
    text = """
        class C(Base, Generic[T], metaclass=Meta):
            kind: ClassVar[str] = "c"
            _hidden: int = 1
            def __init__(self, size: int, _secret: int) -> None:
                self.size = size
                self.open: bool = True
                self._secret = _secret
                self.untyped = 3
            @property
            def name(self) -> str: ...
            @property
            def level(self) -> "int": ...
            @level.setter
            def level(self, level: int) -> None: ...
            @classmethod
            def make(cls) -> C: ...
            @staticmethod
            async def fetch() -> None: ...
            def __repr__(self) -> str: ...
            def __len__(self) -> int: ...
            def _private(self) -> None: ...
            def test_this(self) -> None: ...
    """
    assert told_of(tmp_path, "C", text) == [
        "class app.C(Base, Generic[T], metaclass=Meta)",
        "    def __init__(self, size: int, _secret: int) -> None",
        "    def __len__(self) -> int",
        "    staticmethod async def fetch() -> None",
        "    kind: ClassVar[str] = 'c'",
        "    level: property int (can be set)",
        "    classmethod def make(cls) -> C",
        "    name: property str",
        "    open: bool",
        "    size: int",
    ]


def test_a_dataclass_has_the_signature_that_its_fields_make(tmp_path: Path) -> None:
    text = """
        @dataclass
        class Base:
            first: int
        @dataclass(frozen=True)
        class C(Base):
            kind: ClassVar[str] = "c"
            names: list[str] = field(default_factory=list)
            state: int = field(default=0, init=False)
            _: KW_ONLY
            last: str = "x"
    """
    assert told_of(tmp_path, "C", text) == [
        "@dataclass(frozen=True) class app.C(Base)",
        "    def __init__(self, first: int, names: list[str] = list(), *, last: str = 'x')",
        "    first: int",
        "    kind: ClassVar[str] = 'c'",
        "    last: str",
        "    names: list[str]",
        "    state: int",
    ]


def test_members_of_bases_that_are_not_public_are_told_too(tmp_path: Path) -> None:
    files = {
        "__init__.py": """
            from app.bases import Public
            from app.inner import C
            __all__ = ["C", "Public"]
        """,
        "inner.py": """
            from app.bases import Public, _Private
            class C(_Private, Public):
                def own(self) -> int: ...
        """,
        "bases.py": """
            class Public:
                def shared(self) -> int: ...
            class _Private:
                def own(self) -> str: ...
                def given(self) -> str: ...
        """,
    }
    assert told(tmp_path, files)[2:] == [
        "class app.C(_Private, Public)",
        "    def given(self) -> str",
        "    def own(self) -> int",
        "class app.Public",
        "    def shared(self) -> int",
    ]


def test_each_thing_is_told_once_wherever_it_is_from(tmp_path: Path) -> None:
    files = {
        "__init__.py": """
            if TYPE_CHECKING:
                from app.part import f
            __all__ = ["f", "__version__"]
            __version__ = "1"
        """,
        "part/__init__.py": """
            from . import inner
            from .inner import g as f
            __all__ = ["inner", "f"]
        """,
        "part/inner.py": "T = TypeVar('T')\ndef g() -> None: ...\ndef _h() -> None: ...",
        "unlisted/__init__.py": "def f() -> None: ...",
    }
    assert told(tmp_path, files, "app.part.inner") == [
        *("", "# app", "app.__version__", "def app.f() -> None"),
        *("", "# app.part", "app.part.f is app.f", "app.part.inner is module app.part.inner"),
        *("", "# app.part.inner", "app.part.inner.g is app.f"),
    ]


def test_a_public_module_that_is_gone_is_told(tmp_path: Path) -> None:
    with pytest.raises(LookupError, match=r"app\.gone"):
        Surface(tmp_path, ("app.gone",))
