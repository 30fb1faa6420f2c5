import textwrap
from pathlib import Path

import pytest

from tools import import_circles

LAZY = """\
    from typing import TYPE_CHECKING
    from standfast.lazy import exports
    if TYPE_CHECKING:
        {imports}
    __getattr__, __dir__ = exports(__name__, {{}})
"""


def source(folder: Path, files: dict[str, str]) -> Path:
    """A package `app` of these files; each folder of it is a package too."""
    root = folder / "app"
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        for parent in [path.parent, *path.parent.parents]:
            if parent.is_relative_to(root):
                (parent / "__init__.py").touch()
    return root


def circles(folder: Path, files: dict[str, str]) -> list[list[str]]:
    return [sorted(part) for part in import_circles.components(read(folder, files))]


def read(folder: Path, files: dict[str, str]) -> import_circles.Modules:
    return import_circles.read(source(folder, files))


def test_imports_down_are_no_circle(tmp_path: Path) -> None:
    files = {"a.py": "from app import b", "b.py": "import app.c, os", "c.py": "import json"}
    modules = read(tmp_path, files)
    assert {name: list(module.imports) for name, module in modules.items()} == {
        "app": [],
        "app.a": ["app.b"],
        "app.b": ["app.c"],
        "app.c": [],
    }
    assert not import_circles.components(modules)


@pytest.mark.parametrize(
    "back",
    [
        "from app.a import A",
        "from .a import A",
        "from . import a",
        "from app import a",
        "import app.a as other",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from app.a import A",
        "def late():\n    from app.a import A",
        "class C:\n    async def late(self):\n        import app.a",
        "try:\n    from app.a import A\nexcept ImportError:\n    pass",
    ],
)
def test_every_kind_of_import_counts(tmp_path: Path, back: str) -> None:
    files = {"a.py": "from app.b import B\nclass A: ...", "b.py": back}
    assert circles(tmp_path, files) == [["app.a", "app.b"]]


def test_a_package_and_its_members_are_no_circle(tmp_path: Path) -> None:
    files = {
        "saga/__init__.py": "from app.saga.client import Client",
        "saga/client.py": "from app.saga.steps import Step\nclass Client: ...",
        "saga/steps.py": "class Step: ...",
    }
    assert not circles(tmp_path, files)


@pytest.mark.parametrize("package", ["from app.saga.a import A", LAZY])
def test_a_member_that_imports_its_own_package_is_one(tmp_path: Path, package: str) -> None:
    package = package.format(imports="from app.saga.a import A; from app.saga.b import B")
    files = {
        "saga/__init__.py": package,
        "saga/a.py": "def late():\n    from app.saga import B\nclass A: ...",
        "saga/b.py": "class B: ...",
    }
    assert circles(tmp_path, files) == [["app.saga", "app.saga.a"]]


def test_a_lazy_name_is_an_import_of_the_module_that_defines_it(tmp_path: Path) -> None:
    files = {
        "saga/__init__.py": LAZY.format(
            imports="from app.saga.client import Client as Sagas; from app.inner import Deep"
        ),
        "saga/client.py": "from app import user\nclass Client: ...",
        "inner/__init__.py": LAZY.format(imports="from .deep import Deep"),
        "inner/deep.py": "class Deep: ...",
        "user.py": "from app.saga import Deep",
        "other.py": "from app.saga import Sagas, unknown",
    }
    modules = read(tmp_path, files)
    # Both members of the lazy packages are reached without their packages.
    assert list(modules["app.user"].imports) == ["app.inner.deep"]
    assert list(modules["app.other"].imports) == ["app.saga.client", "app.saga"]
    assert not import_circles.components(modules)


def test_a_name_of_a_package_that_is_not_lazy_is_an_import_of_all_of_it(tmp_path: Path) -> None:
    files = {
        "saga/__init__.py": "from app.saga.client import Client\nfrom app.saga.step import Step",
        "saga/client.py": "from app import user\nclass Client: ...",
        "saga/step.py": "class Step: ...",
        "user.py": "from app.saga import Step",
    }
    assert circles(tmp_path, files) == [["app.saga", "app.saga.client", "app.user"]]


def test_circles_are_told_import_by_import(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = source(
        tmp_path,
        {
            "a.py": "from app import b\nfrom app import c\n",
            "b.py": "\nfrom app import c\n",
            "c.py": "def late():\n    from app import a\n",
            "x.py": "import app.y",
            "y.py": "import app.x",
        },
    )
    assert import_circles.main(root) == 1
    assert capsys.readouterr().out == textwrap.dedent(
        """\
        circle 1, of 3 modules: app.a, app.b, app.c
          app.a -> app.c
              app/a.py:2: from app import c
          app.c -> app.a
              app/c.py:2: from app import a
          and, in the same knot:
          app.a -> app.b
              app/a.py:1: from app import b
          app.b -> app.c
              app/b.py:2: from app import c
        circle 2, of 2 modules: app.x, app.y
          app.x -> app.y
              app/x.py:1: import app.y
          app.y -> app.x
              app/y.py:1: import app.x
        import circles: 6 modules, 2 circles
        """
    )


def test_no_source_is_a_failure(tmp_path: Path) -> None:
    assert import_circles.main(tmp_path) == 1
