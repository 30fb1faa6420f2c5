"""Places for instances: never more are taken than there are, in all and of each name."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from standfast.coordination.slots import Slots

LIMIT = 5
OWN: dict[str, int | None] = {"a": 2, "b": None, "c": 5, "d": 0}
NAMES = st.sampled_from(list(OWN))


class Places(RuleBasedStateMachine):
    """Whoever asks for room first never goes over a limit."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(LIMIT)
        self.inside: list[str] = []
        self.refused = False

    @rule(name=NAMES)
    def come(self, name: str) -> None:
        room = self.slots.room(name, OWN[name])
        own = OWN[name]
        left = LIMIT - len(self.inside)
        assert room == (left if own is None else min(left, own - self.inside.count(name)))
        if room > 0:
            self.slots.take(name)
            self.inside.append(name)
        else:
            self.slots.starved = self.refused = True

    @rule(name=NAMES)
    def come_if_free(self, name: str) -> None:
        fits = self.slots.room(name, OWN[name]) > 0
        assert self.slots.take_if_free(name, OWN[name]) == fits
        if fits:
            self.inside.append(name)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(self.inside))
        self.inside.remove(name)
        assert self.slots.give_back(name) == self.refused

    @rule()
    def look_again(self) -> None:
        self.slots.starved = self.refused = False

    @invariant()
    def no_more_than_there_are(self) -> None:
        assert self.slots.taken == len(self.inside) <= LIMIT
        for name, own in OWN.items():
            assert self.slots.by_name[name] == self.inside.count(name)
            assert own is None or self.slots.by_name[name] <= own


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)


@given(st.integers(2, 20), st.integers(1, 20))
@settings(deadline=None)
def test_what_leaves_makes_room_for_any_name(limit: int, own: int):
    slots = Slots(limit)
    for _ in range(limit):
        slots.take("one")
    assert slots.room("one", None) == slots.room("other", own) == 0
    assert not slots.give_back("one"), "nobody was refused"
    slots.starved = True
    assert slots.give_back("one")
    assert slots.room("other", None) == 2
    assert slots.room("other", own) == min(2, own)
