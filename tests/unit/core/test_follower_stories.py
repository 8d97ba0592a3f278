"""A follower with its leader, as stories: one a sentence of PROTOCOL.md (rules 2 to 7, 15, 37 and 40)."""

from __future__ import annotations

import pytest

from millpond_broker.core.follower import Follower, FollowerState
from millpond_broker.core.in_sync import Member
from millpond_broker.core.replication import Position
from tests.unit.core.stories import follower_story


def test_a_follower_states_where_it_is_and_acknowledges_what_is_durable() -> None:
    """Rules 2, 7 and 37."""
    follower_story(
        """
        > follow 10
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > serve 10 hw=8
        > look
            high watermark 8, following
        > push 10 15 hw=10
            appends
        > look
            high watermark 10, following
        > sync
            acknowledges 15, durable 15, session 1
        > push 15 15 hw=15
        > look
            high watermark 15, following
        """
    )


def test_with_flush_interval_it_acknowledges_what_it_appended() -> None:
    """Rule 7."""
    follower_story(
        """
        > follow 10 flush=interval
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > serve 10
        > push 10 15 hw=12
            appends
            acknowledges 15, durable 10, session 1
        > look
            high watermark 12, following
        """
    )


def test_what_was_synced_while_it_stated_is_acknowledged() -> None:
    """Rule 37: the statement told of less."""
    follower_story(
        """
        > follow 10 durable=6
        > begin
            states at 10 after epoch 0, durable 6, session 1
        > sync
        > serve 10
            acknowledges 10, durable 10, session 1
        """
    )


def test_it_cuts_to_where_both_had_the_epoch_that_both_know() -> None:
    """Rule 4: the least of the leader's end, its own end of that epoch, and its log end. And asks again."""
    follower_story(
        """
        > follow 30 epoch=9 last=5 epochs=0:0,3:10,5:20
        > begin
            states at 30 after epoch 5, durable 30, session 1
        > diverge 4 25
            cuts to 20
        > lose
        > begin
        > cut 20 last=3
        > begin
            states at 20 after epoch 3, durable 20, session 2
        > diverge 3 15 session=2
            cuts to 15
        > cut 15 last=3
        > begin
            states at 15 after epoch 3, durable 15, session 3
        > serve 15 session=3 epoch=9
        """
    )


def test_the_high_watermark_is_no_reason_to_cut() -> None:
    """Rule 5: what lies past it may be committed."""
    follower_story(
        """
        > follow 10 hw=4
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > serve 10 hw=6
        > look
            high watermark 6, following
        """
    )


def test_a_cut_below_its_high_watermark_is_refused() -> None:
    """Rule 5."""
    follower_story(
        """
        > follow 10 hw=8
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > diverge 0 7
            would lose what was committed
            is stopped
        > begin
            is stopped
        > push 10 12
            is stopped
        """
    )


def test_after_an_election_that_may_have_lost_something_it_is_not() -> None:
    """Rule 5; and from the first answer on its high watermark is of the new history."""
    follower_story(
        """
        > follow 10 hw=8 recovering=yes
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > diverge 0 7
            cuts to 7
        > cut 7
        > look
            high watermark 7, idle
        > begin
            states at 7 after epoch 0, durable 7, session 2
        > serve 7 hw=5 session=2
        > look
            high watermark 5, following
        """
    )


def test_a_log_that_ends_before_the_leaders_begins_starts_over() -> None:
    """Rule 4."""
    follower_story(
        """
        > follow 10 hw=8
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > range 20 30
            starts over at 20
        > cut 20 start=20 last=-
        > look
            high watermark 20, idle
        > begin
            states at 20 after epoch None, durable 20, session 2
        """
    )


def test_a_trimmed_log_that_has_to_begin_earlier_leaves_before_it_does() -> None:
    """Rules 4 and 15: its old leader trimmed it to its end, and the new one had not heard of that. To begin
    earlier with a seat in the ISR would have it elected with offsets that were given out before.
    """
    follower_story(
        """
        > follow 38 start=38 hw=38 last=-
        > begin
            states at 38 after epoch None, durable 38, session 1
        > range 0 41
            its log has to begin before what is committed
            is leaving
        > see 1 member=yes
            is leaving
        > see 2 floor=2 member=no
            starts over at 0
        > cut 0 start=0 last=-
        > begin
            states at 0 after epoch None, durable 0, session 2
        > serve 0 hw=38 session=2
        > look
            high watermark 0, following
        """
    )


def test_out_of_range_past_the_leaders_end_is_cut_to_it() -> None:
    """Rule 4; unless that would lose what was committed (rule 5)."""
    follower_story(
        """
        > follow 10 hw=8
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > range 0 9
            cuts to 9
        > cut 9
        > begin
            states at 9 after epoch 0, durable 9, session 2
        > range 0 9 session=2
            states at 9 after epoch 0, durable 9, session 3
        > range 0 7 session=3
            would lose what was committed
            is stopped
        """
    )


def test_a_leader_whose_log_start_overtook_the_session_is_followed_from_there() -> None:
    """Rule 4."""
    follower_story(
        """
        > follow 10 hw=8
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > serve 10
        > range 20 30
            starts over at 20
        > cut 20 start=20 last=-
        > begin
            states at 20 after epoch None, durable 20, session 2
        """
    )


def test_late_words_of_other_sessions_and_epochs_are_not_heard() -> None:
    """Rule 37."""
    follower_story(
        """
        > follow 10
        > push 10 12
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > push 10 12
        > lose
        > begin
            states at 10 after epoch 0, durable 10, session 2
        > serve 10 session=1
        > diverge 0 5 session=1
        > serve 10 session=2 epoch=1
        > serve 10 session=2
        > push 10 12 session=1
        > push 10 12 session=2 epoch=1
        > push 10 12 session=2
            appends
        """
    )


def test_a_gap_in_the_pushes_opens_a_new_session() -> None:
    """Rule 37: append requires the own log end, and a base at or past it (compaction leaves gaps)."""
    follower_story(
        """
        > follow 10
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > serve 10
        > push 10 15 base=13
            appends
        > push 16 18
            states at 15 after epoch 2, durable 10, session 2
        > push 15 16
        """
    )


def test_batches_whose_epochs_go_back_are_not_taken() -> None:
    follower_story(
        """
        > follow 10 last=2 epochs=0:0,2:5
        > begin
            states at 10 after epoch 2, durable 10, session 1
        > serve 10
        > push 10 15 last=1
            the leader contradicts itself
            is stopped
        """
    )


def test_it_adopts_the_leaders_log_start_as_far_as_it_is_durable() -> None:
    """Rule 7: its high watermark is raised to it."""
    follower_story(
        """
        > follow 10 hw=2 durable=6
        > begin
            states at 10 after epoch 0, durable 6, session 1
        > serve 10 hw=9 start=8
            trims to 6
            acknowledges 10, durable 6, session 1, start 6
        > look
            high watermark 6, following
        > sync
            trims to 8
            acknowledges 10, durable 10, session 1, start 8
            acknowledges 10, durable 10, session 1, start 6
        > look
            high watermark 9, following
        """
    )


def test_one_whose_disk_hangs_asks_to_leave_and_states_anew_when_it_is_told_to_begin() -> None:
    """Rule 40: what comes meanwhile is of a session that is over (rule 37)."""
    follower_story(
        """
        > follow 10
        > withdraw
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > withdraw
            acknowledges 10, durable 10, session 1, leaves
        > serve 10 hw=9
        > look
            high watermark 0, idle
        > begin
            states at 10 after epoch 0, durable 10, session 2
        > serve 10 hw=9 session=2
        > withdraw
            acknowledges 10, durable 10, session 2, leaves
        > push 10 12 session=2
        > look
            high watermark 9, idle
        """
    )


def test_a_fenced_or_unknown_follower_waits() -> None:
    """Rule 2: for the metadata, if the leader is newer than what we know; otherwise a while."""
    follower_story(
        """
        > follow 10
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > fence 3
        > begin
            states at 10 after epoch 0, durable 10, session 2
        > unknown 1 session=2
            begins later
        > begin
            states at 10 after epoch 0, durable 10, session 3
        > fence 2 session=3
            begins later
        """
    )


def test_a_failed_sync_is_followed_by_a_cut_and_a_new_statement() -> None:
    """Rule 40."""
    follower_story(
        """
        > follow 10
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > serve 10
        > push 10 15 hw=10
            appends
        > lose
        > cut 10
        > look
            high watermark 10, idle
        > begin
            states at 10 after epoch 0, durable 10, session 2
        """
    )


def test_a_damaged_log_is_emptied_once_nobody_counts_on_it() -> None:
    """Rule 15. What it stated before lets it join no more, by the partition epoch in which it did."""
    follower_story(
        """
        > follow 10
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > serve 10
        > corrupt
            bad bytes
            is leaving
        > begin
            is leaving
        > see 1 member=no
            is leaving
        > see 2 floor=2
            is leaving
        > see 3 floor=2 member=no
            starts over at 0
        > cut 0 start=0 last=-
        > begin
            states at 0 after epoch None, durable 0, session 2
        """
    )


def test_who_has_to_state_its_position_anew_does() -> None:
    """Rule 15: what it stated before the metadata heard of its bad bytes lets it join no more."""
    follower_story(
        """
        > follow 10
        > begin
            states at 10 after epoch 0, durable 10, session 1
        > see 1
        > serve 10
        > see 3 floor=2
            states at 10 after epoch 0, durable 10, session 2
        > see 4 floor=2
        """
    )


def test_an_illegal_move_is_our_bug() -> None:
    machine = Follower(Member(2, 12), 1, Position(0, 5, 5, 0), 0, waits_for_sync=True)
    with pytest.raises(AssertionError, match="a follower went from"):
        machine._enter(FollowerState.FOLLOWING)
