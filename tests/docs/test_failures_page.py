"""Each failure told in the docs names its test: those tests must be there."""

import ast
import re

from tests.docs.blocks import ROOT

PAGE = ROOT / "docs" / "explanation" / "failures.md"


def test_each_row_names_a_test_that_is_there():
    rows = [line for line in PAGE.read_text().splitlines() if re.match(r"\| (?!failure|-)", line)]
    assert len(rows) > 20
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, f"no test is named: {row}"
        for file, function in named:
            tree = ast.parse((ROOT / file).read_text())
            functions = (ast.FunctionDef, ast.AsyncFunctionDef)
            names = {node.name for node in ast.walk(tree) if isinstance(node, functions)}
            assert function in names, f"{file} has no {function}"
