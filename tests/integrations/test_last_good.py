"""A last good answer in a transport is that of the same request, and of nobody else's."""

from typing import Any

import httpx
import pytest

from standfast.integrations.httpx import AsyncPolicyTransport, PolicyTransport
from standfast.resilience import Fallback, LastGood, Pipeline, Retry
from standfast.resilience.backoff import Constant


class Pages:
    """Serves each page once, by path and user, and is away then."""

    def __init__(self) -> None:
        self.served: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        page = f"{request.url.path} for {request.headers.get('authorization', 'all')}"
        if page in self.served or request.url.path == "/broken":
            return httpx.Response(503)
        self.served.add(page)
        return httpx.Response(200, text=page)


@pytest.fixture(params=["alone", "in a pipeline"])
def policy(request: Any) -> Any:
    fallback = Fallback(last_good=LastGood("1h"))
    if request.param == "alone":
        return fallback
    return Pipeline(fallback, Retry(backoff=Constant(0)))


ALICE, BOB = {"authorization": "alice"}, {"authorization": "bob"}


def test_plain(policy: Any) -> None:
    with httpx.Client(transport=PolicyTransport(policy, httpx.MockTransport(Pages()))) as client:
        for _ in range(2):
            assert client.get("http://shop/basket", headers=ALICE).text == "/basket for alice"
        assert client.get("http://shop/basket", headers=BOB).text == "/basket for bob"
        assert client.get("http://shop/broken", headers=ALICE).status_code == 503
        assert client.get("http://shop/basket", headers=ALICE).text == "/basket for alice"


async def test_async(policy: Any) -> None:
    inner = httpx.MockTransport(Pages())
    async with httpx.AsyncClient(transport=AsyncPolicyTransport(policy, inner)) as client:
        for _ in range(2):
            answer = await client.get("http://shop/basket", headers=ALICE)
            assert answer.text == "/basket for alice"
        assert (await client.get("http://shop/basket", headers=BOB)).text == "/basket for bob"
        assert (await client.get("http://shop/broken", headers=ALICE)).status_code == 503


def test_two_transports_that_share_a_fallback_are_apart(policy: Any) -> None:
    broken = httpx.MockTransport(lambda _: httpx.Response(503))
    with (
        httpx.Client(transport=PolicyTransport(policy, httpx.MockTransport(Pages()))) as one,
        httpx.Client(transport=PolicyTransport(policy, broken)) as other,
    ):
        assert one.get("http://shop/basket").text == "/basket for all"
        assert other.get("http://shop/basket").status_code == 503


def test_a_key_of_one_s_own_gets_the_request() -> None:
    kept = LastGood(key=lambda request: request.url.path)
    transport = PolicyTransport(Fallback(last_good=kept), httpx.MockTransport(Pages()))
    with httpx.Client(transport=transport) as client:
        for _ in range(2):
            assert client.get("http://shop/basket?seen=1").text == "/basket for all"
        assert client.get("http://shop/broken").status_code == 503
