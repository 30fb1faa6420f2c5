"""tools/blocking_twins.py: the classes of sync code are what the async ones make them."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def twins() -> ModuleType:
    path = Path(__file__).parents[2] / "tools" / "blocking_twins.py"
    spec = importlib.util.spec_from_file_location("blocking_twins", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOURCE = '''
class Shop:
    """A shop."""

    async def sell(self, saga: SagaHandle[Any] | str, *, price: int = 1) -> SagaHandle[Any]:
        """Sell it.

        It raises a `ConfigurationError` inside a transaction, where there is `Transaction.start`.
        """
        return await self._sell(saga, price)

    async def goods(self, *names: str) -> AsyncIterator[str]:
        """All of them."""
        yield "lamp"

    def sign(self) -> str:
        """What stands over the door."""
        return "Shop"

    async def _sell(self, saga, price): ...
'''


def made(twins: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *names: str) -> str:
    (tmp_path / "shop.py").write_text(SOURCE)
    monkeypatch.setattr(twins, "PACKAGE", tmp_path)
    head = "from __future__ import annotations\n\n\nclass BlockingShop:\n    pass\n"
    text: str = twins.text_of(twins.Twin("twin.py", head, [("shop.py", "Shop", names)], "_shop"))
    return text


def test_they_are_up_to_date(twins: ModuleType) -> None:
    assert twins.main(["--check"]) == 0


def test_a_twin_waits_where_its_class_awaits(
    twins: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = made(twins, monkeypatch, tmp_path)
    assert "async" not in text
    assert "saga: BlockingSagaHandle[Any] | SagaHandle[Any] | str" in text
    assert (
        "return BlockingSagaHandle(\n"
        "            self._complete(self._shop.sell(with_ids(saga), price=price)), self._complete\n"
    ) in text
    assert "def goods(self, *names: str) -> Iterator[str]:" in text
    assert "return iterated(self._complete, lambda: self._shop.goods(*names))" in text
    assert "return self._shop.sign()" in text
    assert "_sell(" not in text
    assert "`BlockingTransaction.start`" in text
    assert max(map(len, text.splitlines())) <= 100


def test_a_method_that_is_gone_is_told(
    twins: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "goods" not in made(twins, monkeypatch, tmp_path, "sign")
    with pytest.raises(SystemExit, match="has no buy"):
        made(twins, monkeypatch, tmp_path, "buy")


def test_what_differs_is_told_and_not_written(
    twins: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "shop.py").write_text(SOURCE)
    twin = twins.Twin("twin.py", "class BlockingShop:\n", [("shop.py", "Shop", ())], "_shop")
    for name, value in (("PACKAGE", tmp_path), ("ROOT", tmp_path), ("TWINS", [twin])):
        monkeypatch.setattr(twins, name, value)
    assert twins.main(["--check"]) == 1
    assert "make twins" in capsys.readouterr().out
    assert not (tmp_path / "twin.py").exists()
    assert twins.main([]) == 0
    assert twins.main(["--check"]) == 0
