"""Where replicas go, for any cluster: on as many racks as can be, and on brokers evenly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from hypothesis import given, settings
from hypothesis import strategies as st

from millpond_broker.core.commands import Assignment
from millpond_broker.core.placement import assign


def spread(counts: Counter[int], brokers: Iterable[int]) -> int:
    """The most that one has more than another."""
    values = [counts[broker] for broker in brokers]
    return max(values) - min(values)


def held(placed: Iterable[Assignment]) -> Counter[int]:
    return Counter(member for members in placed for member in members)


def leading(placed: Iterable[Assignment]) -> Counter[int]:
    return Counter(members[0] for members in placed)


@st.composite
def even_racks(draw: st.DrawFn) -> dict[int, str]:
    """Brokers on racks of one size, under any ids."""
    racks, size = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    ids = draw(st.lists(st.integers(1, 1000), min_size=racks * size, max_size=racks * size, unique=True))
    return {broker: f"rack-{number % racks}" for number, broker in enumerate(ids)}


ANY_RACKS = st.dictionaries(
    st.integers(1, 1000), st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=12
)


@st.composite
def placements(
    draw: st.DrawFn, racks_of: st.SearchStrategy[dict[int, str]]
) -> tuple[dict[int, str], int, int]:
    racks = draw(racks_of)
    return racks, draw(st.integers(1, 40)), draw(st.integers(1, min(5, len(racks))))


def check_racks(racks: Mapping[int, str], placed: Iterable[Assignment], replicas: int) -> None:
    sizes = Counter(racks.values())
    for members in placed:
        assert len(set(members)) == len(members) == replicas
        on = Counter(racks[member] for member in members)
        assert len(on) == min(replicas, len(sizes)), "on as many racks as there are"
        for rack in sizes:
            fewest = min((on[other] for other in sizes if on[other] < sizes[other]), default=replicas)
            assert on[rack] <= fewest + 1, "no rack has two more while another has room"


@settings(max_examples=150)
@given(placements(ANY_RACKS))
def test_replicas_are_on_as_many_racks_as_they_can_be(placement: tuple[dict[int, str], int, int]) -> None:
    racks, partitions, replicas = placement
    placed = assign(racks, partitions, replicas)
    assert len(placed) == partitions
    check_racks(racks, placed, replicas)
    assert placed == assign(dict(reversed(racks.items())), partitions, replicas), "order is nobody's"


@settings(max_examples=150)
@given(placements(even_racks()))
def test_on_racks_of_one_size_brokers_hold_and_lead_as_much_as_one_another(
    placement: tuple[dict[int, str], int, int],
) -> None:
    racks, partitions, replicas = placement
    placed = assign(racks, partitions, replicas)
    check_racks(racks, placed, replicas)
    assert spread(held(placed), racks) <= 1
    assert spread(leading(placed), racks) <= 1


@settings(max_examples=100)
@given(placements(even_racks()), st.integers(1, 20))
def test_partitions_that_are_added_make_up_what_those_before_left(
    placement: tuple[dict[int, str], int, int], more: int
) -> None:
    racks, partitions, replicas = placement
    first = assign(racks, partitions, replicas)
    added = assign(racks, more, replicas, there=first)
    check_racks(racks, added, replicas)
    assert spread(held([*first, *added]), racks) <= 1


@settings(max_examples=60)
@given(st.integers(3, 8), st.integers(2, 3))
def test_the_partitions_of_a_lost_broker_find_leaders_on_all_the_others(brokers: int, replicas: int) -> None:
    racks = dict.fromkeys(range(brokers), "")
    placed = assign(racks, 4 * brokers * (brokers - 1), replicas)
    for lost in racks:
        heirs = Counter(members[1] for members in placed if members[0] == lost)
        others = [broker for broker in racks if broker != lost]
        assert all(heirs[other] for other in others)
        assert spread(heirs, others) <= 4, "of four for each, on average"


@settings(max_examples=60)
@given(st.integers(1, 6), st.dictionaries(st.integers(1, 6), st.integers(0, 9)))
def test_what_brokers_lead_elsewhere_breaks_ties(brokers: int, load: dict[int, int]) -> None:
    """Topics of one partition do not all begin at the same broker."""
    racks = dict.fromkeys(range(1, brokers + 1), "")
    ((leader,),) = assign(racks, 1, 1, load=load)
    assert load.get(leader, 0) == min(load.get(broker, 0) for broker in racks)
