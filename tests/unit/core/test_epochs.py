"""The leader-epoch cache (rules 1 and 3)."""

from __future__ import annotations

import pytest

from millpond_broker.core.epochs import LeaderEpochs

ENTRIES = [(2, 0), (5, 10), (6, 25)]


def test_entries_come_back_in_order() -> None:
    """Rule 1."""
    epochs = LeaderEpochs(ENTRIES)
    assert epochs.entries() == ENTRIES
    assert epochs.latest == 6


def test_a_partition_without_epochs_has_no_latest_and_no_end() -> None:
    epochs = LeaderEpochs()
    assert epochs.latest is None
    assert epochs.end_offset_for(7, 100) is None


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (0, None),
        (1, None),
        (2, (2, 10)),
        (3, (2, 10)),
        (4, (2, 10)),
        (5, (5, 25)),
        (6, (6, 40)),
        (7, (6, 40)),
        (2**31 - 1, (6, 40)),
    ],
)
def test_the_end_of_an_epoch_is_where_the_next_one_began_or_the_log_end(
    asked: int, answer: tuple[int, int] | None
) -> None:
    """Rule 3: (largest epoch <= requested, start offset of the next epoch or the log end)."""
    assert LeaderEpochs(ENTRIES).end_offset_for(asked, 40) == answer


def test_an_epoch_that_wrote_nothing_leaves_no_entry() -> None:
    """Rule 1: its start is taken over, so no two epochs claim one offset."""
    epochs = LeaderEpochs(ENTRIES)
    epochs.begin(8, 25)
    assert epochs.entries() == [(2, 0), (5, 10), (8, 25)]
    assert epochs.end_offset_for(6, 40) == (5, 25)


@pytest.mark.parametrize(
    ("log_end", "left"),
    [(40, 3), (26, 3), (25, 2), (24, 2), (11, 2), (10, 1), (9, 1), (1, 1), (0, 0)],
)
def test_a_cut_forgets_epochs_that_began_at_or_past_the_new_end(log_end: int, left: int) -> None:
    """Rules 1 and 4: an epoch without a batch in the log is not one the log can vouch for."""
    epochs = LeaderEpochs(ENTRIES)
    epochs.cut_from(log_end)
    assert epochs.entries() == ENTRIES[:left]


@pytest.mark.parametrize(
    ("log_start", "first"), [(0, 0), (9, 0), (10, 1), (11, 1), (24, 1), (25, 2), (99, 2)]
)
def test_a_trim_forgets_epochs_that_ended_and_keeps_the_one_in_force(log_start: int, first: int) -> None:
    """Rule 3: the first entry is at or below the log start, so every offset has its epoch."""
    epochs = LeaderEpochs(ENTRIES)
    epochs.cut_before(log_start)
    assert epochs.entries() == ENTRIES[first:]


def test_a_trim_below_the_first_entry_forgets_nothing() -> None:
    epochs = LeaderEpochs([(5, 10)])
    epochs.cut_before(3)
    assert epochs.entries() == [(5, 10)]


@pytest.mark.parametrize(("epoch", "start"), [(6, 30), (5, 30), (7, 24)])
def test_epochs_and_starts_only_grow(epoch: int, start: int) -> None:
    """Rule 1, asserted: an older epoch or an earlier start is our bug."""
    epochs = LeaderEpochs(ENTRIES)
    with pytest.raises(AssertionError):
        epochs.begin(epoch, start)
    assert epochs.entries() == ENTRIES


def test_the_start_is_where_the_oldest_epoch_on_record_began() -> None:
    assert LeaderEpochs().start is None
    assert LeaderEpochs([(5, 10), (6, 25)]).start == 10
