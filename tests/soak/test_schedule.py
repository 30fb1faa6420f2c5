from collections import Counter
from itertools import pairwise

from tests.soak.load.schedule import Kind, schedule
from tests.soak.part import LEAST, Part, share_out

KINDS = {"kills": Kind(3), "pauses": Kind(1, 2.0, 5.0), "restarts": Kind(1, 0.0, 1.0)}


def test_the_same_seed_is_the_same_schedule():
    assert schedule(7, 100, KINDS) == schedule(7, 100, KINDS)
    assert schedule(7, 100, KINDS) != schedule(8, 100, KINDS)


def test_blows_come_in_order_and_within_the_time():
    blows = schedule(1, 60, KINDS, pause=(1.0, 4.0))
    times = [blow.at for blow in blows]
    assert times == sorted(times)
    assert times[0] > 0
    assert times[-1] < 60
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert min(pauses) >= 1.0
    assert max(pauses) <= 4.0


def test_each_kind_comes_soon_and_then_by_its_weight():
    blows = schedule(3, 5_000, KINDS)
    assert {blow.kind for blow in blows[:3]} == set(KINDS)
    counts = Counter(blow.kind for blow in blows)
    assert 2 < counts["kills"] / counts["pauses"] < 4.5


def test_a_blow_lasts_as_long_as_its_kind_may():
    for blow in schedule(3, 1_000, KINDS):
        assert KINDS[blow.kind].shortest <= blow.lasts <= KINDS[blow.kind].longest
        assert 0 <= blow.draw < 1


async def _nothing(setting):
    raise NotImplementedError


def part(name: str, share: float = 0.0, minutes: float = 0.0) -> Part:
    return Part(name, "", _nothing, share=share, minutes=minutes)


def test_what_is_left_by_the_fixed_parts_is_shared_out():
    parts = [part("fixed", minutes=4), part("small", share=1, minutes=1), part("large", share=2)]
    assert share_out(parts, 20) == {"fixed": 0, "small": 300, "large": 600}


def test_nobody_gets_next_to_nothing():
    assert share_out([part("fixed", minutes=9), part("rest", share=1)], 5)["rest"] == LEAST
