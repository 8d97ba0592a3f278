"""What a voter has to say: joined where it follows on, bounded where nobody answers."""

from __future__ import annotations

from millpond_broker.consensus.journal import Entry, EntryKind
from millpond_broker.consensus.raft.library import BATCH_BYTES
from millpond_broker.consensus.raft.messages import AppendEntries, Message, Vote
from millpond_broker.consensus.raft.outbox import UNANSWERED_BYTES_MAX, Outbox


def append(first: int, count: int = 1, *, term: int = 3, commit: int = 0, size: int = 10) -> AppendEntries:
    """Entries from an index on."""
    entries = tuple(
        Entry(index, term, EntryKind.COMMAND, b"x" * size) for index in range(first, first + count)
    )
    return AppendEntries(term, commit, first - 1, term, entries)


def test_what_follows_on_is_one_message() -> None:
    outbox = Outbox()
    outbox.add(2, append(5))
    outbox.add(3, append(5))
    outbox.add(2, append(6, 2, commit=4))
    outbox.add(2, append(8, 0, commit=7))
    (to_two, joined), (to_three, single) = outbox.take()
    assert (to_two, to_three) == (2, 3)
    assert joined == append(5, 3, commit=7)
    assert single == append(5)
    assert not outbox


def test_what_does_not_follow_on_stays_apart_and_in_order() -> None:
    outbox = Outbox()
    said: list[Message] = [append(5), append(7), append(8, term=4), Vote(4), append(9, term=4)]
    for message in said:
        outbox.add(2, message)
    assert [message for _, message in outbox.take()] == said


def test_a_message_has_a_batch_at_most() -> None:
    outbox = Outbox()
    half = BATCH_BYTES // 2 + 1
    outbox.add(2, append(5, size=half))
    outbox.add(2, append(6, size=half))
    assert len(outbox.take()) == 2


def test_what_nobody_answers_is_bounded() -> None:
    """The rest is held back, and the library is told where to go on; heartbeats go out all the same."""
    outbox = Outbox()
    size = BATCH_BYTES // 2
    for index in range(1, 21):
        outbox.add(2, append(index, size=size))
    said = [message for _, message in outbox.take() if isinstance(message, AppendEntries)]
    entries = [entry for message in said for entry in message.entries]
    assert sum(len(entry.data) for entry in entries) <= UNANSWERED_BYTES_MAX + 2 * size
    first_held_back = entries[-1].index + 1
    assert outbox.take_held_back() == {2: first_held_back}
    outbox.add(2, append(first_held_back, size=size))
    ((_, heartbeat),) = outbox.take()
    assert heartbeat == append(first_held_back, 0)
    outbox.take_held_back()
    outbox.answered(2, 5)
    outbox.add(2, append(first_held_back, size=size))
    assert outbox.take() == [(2, append(first_held_back, size=size))]
    assert not outbox.take_held_back()


def test_a_link_that_broke_begins_anew() -> None:
    outbox = Outbox()
    for index in range(1, 21):
        outbox.add(2, append(index, size=BATCH_BYTES // 2))
    outbox.take()
    outbox.take_held_back()
    outbox.forget(2)
    outbox.add(2, append(1))
    assert outbox.take() == [(2, append(1))]
