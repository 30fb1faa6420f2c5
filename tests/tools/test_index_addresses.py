import subprocess
from pathlib import Path

import pytest

from tools import index_addresses


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    return tmp_path


@pytest.mark.parametrize("host", index_addresses.HOSTS)
def test_a_host_is_found_and_those_under_it(host: str) -> None:
    found = dict(index_addresses.addresses(f"one\nsee https://{host}/simple\nor files.{host}"))
    assert list(found) == [2, 3]


@pytest.mark.parametrize(
    "line",
    [
        "index-url = ADDRESS",
        "--extra-index-url ADDRESS",
        "PIP_INDEX_URL=ADDRESS",
        "UV_DEFAULT_INDEX=ADDRESS",
        'source = { registry = "ADDRESS" }',
        "registry=ADDRESS",
    ],
)
def test_a_setting_is_found(line: str) -> None:
    # Filled in here, or this file would be found.
    text = line.replace("ADDRESS", "https://packages.example/simple")
    assert dict(index_addresses.addresses(text)) == {1: text}


@pytest.mark.parametrize(
    "line",
    [
        "self.registry = registry",
        "uv pip compile --no-emit-index-url --universal",
        "set PIP_INDEX_URL to your mirror",
        "https://docs.example/pypi/",
        "mypypi" + "." + "org",
    ],
)
def test_other_lines_pass(line: str) -> None:
    assert not list(index_addresses.addresses(line))


def test_the_tree_is_read_without_what_git_ignores(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"https://{index_addresses.HOSTS[0]}/simple"
    (tree / ".gitignore").write_text("*.log\n")
    (tree / "build.log").write_text(address)
    assert index_addresses.main(tree) == 0
    (tree / "new.toml").write_text(f"\n{address}\n")
    assert index_addresses.main(tree) == 1
    assert f"new.toml:2: names a package index: {address}" in capsys.readouterr().out


def test_an_empty_tree_is_a_failure(tree: Path) -> None:
    assert index_addresses.main(tree) == 1
