"""A leader with followers, as stories: one a sentence of PROTOCOL.md (rules 1 to 11, 37 and 39)."""

from __future__ import annotations

import pytest

from millpond.wire.errors import NotEnoughReplicas
from millpond_broker.core.followers import AppendTimes
from tests.unit.core.stories import LeaderStory, leader_story


def test_a_record_is_committed_once_every_member_of_the_isr_has_it_durable() -> None:
    """Rules 6 and 37: pushing needs the append, counting the sync."""
    leader_story(
        """
        > lead isr=1,2,3
        > state 2 0 last=-
            serving from 0, high watermark 0, log start 0
        > state 3 0 last=-
            serving from 0, high watermark 0, log start 0
        > append 5
            something for 2,3
        > push 2
            push from 0 to 5, high watermark 0
        > push 3
            push from 0 to 5, high watermark 0
        > sync
        > ack 2 5
        > ack 3 5 durable=3
            high watermark 3
        > ack 3 5
            high watermark 5
            committed up to 5
        > push 2
            push from 5 to 5, high watermark 5
        > push 2
            nothing
        """
    )


def test_who_asks_to_leave_is_removed_and_joins_again_once_it_has_stated_anew() -> None:
    """Rules 40 and 10. It counts until the metadata say that it left (rule 6)."""
    leader_story(
        """
        > lead isr=1,2,3
        > state 2 0 last=-
            serving from 0, high watermark 0, log start 0
        > state 3 0 last=-
            serving from 0, high watermark 0, log start 0
        > ack 3 0 session=2 leaves=yes
        > ack 3 0 leaves=yes
            asks for ISR 1,2 on 0
        > append 5
            something for 2
        > push 2
            push from 0 to 5, high watermark 0
        > sync
        > ack 2 5
        > commit isr=1,2
            high watermark 5
            committed up to 5
        > tick 100
        > state 3 0 last=- session=2
            serving from 0, high watermark 5, log start 0
            something for 3
        > push 3
            push from 0 to 5, high watermark 5
        > ack 3 5 session=2
            asks for ISR 1,2,3 on 1
        """
    )


def test_with_flush_interval_what_was_appended_counts() -> None:
    """Rule 6."""
    leader_story(
        """
        > lead isr=1,2 flush=interval
        > state 2 0 last=-
            serving from 0, high watermark 0, log start 0
        > append 5
            something for 2
        > push 2
            push from 0 to 5, high watermark 0
        > ack 2 5 durable=0
            high watermark 5
            committed up to 5
        """
    )


def test_a_member_that_was_not_heard_of_holds_the_high_watermark_back() -> None:
    """Rule 1: a new leader knows of nobody how far he is, and starts from the high watermark it inherited."""
    leader_story(
        """
        > lead isr=1,2,3 log=9 hw=4
        > append 10
        > sync
        > state 2 9
            serving from 9, high watermark 4, log start 0
            something for 2
        > state 3 7
            serving from 7, high watermark 4, log start 0
            high watermark 7
            something for 3
        """
    )


def test_a_statement_of_another_epoch_or_from_a_stranger_is_not_served() -> None:
    """Rule 2."""
    leader_story(
        """
        > lead isr=1,2 epoch=5 replicas=1,2
        > state 2 0 epoch=4
            fenced: the epoch is 5
        > state 2 0 epoch=6
            unknown: the epoch is 5
        > state 7 0 epoch=5
            unknown: the epoch is 5
        > state 2 0 epoch=5 start=11
            fenced: the epoch is 5
        """
    )


def test_a_log_that_has_what_the_leader_lacks_is_told_where_to_cut_and_not_counted() -> None:
    """Rule 3: the follower's end stays what it was, so that the high watermark waits."""
    leader_story(
        """
        > lead isr=1,2 epoch=5 log=20 epochs=0:0,3:10
        > state 2 25 epoch=5 last=3
            diverging: epoch 3 ends at 20
        > state 2 15 epoch=5 last=2 session=2
            diverging: epoch 0 ends at 10
        > state 2 12 epoch=5 last=0 session=3
            diverging: epoch 0 ends at 10
        > ack 2 20 epoch=5 session=3
        > state 2 10 epoch=5 last=0 session=4
            serving from 10, high watermark 0, log start 0
            high watermark 10
            something for 2
        """
    )


def test_a_log_older_than_all_that_the_leader_has_left_is_cut_to_where_that_begins() -> None:
    """Rules 3 and 4."""
    leader_story(
        """
        > lead isr=1 replicas=1,2 min_insync=1 epoch=5 log=20 hw=20 epochs=4:10
        > trim 10
        > state 2 15 epoch=5 last=3
            diverging: epoch 3 ends at 10
        > state 2 5 epoch=5 last=3 session=2
            out of range: 10 to 20
        > state 2 25 epoch=5 last=- session=3
            out of range: 10 to 20
        """
    )


def test_a_log_start_that_overtakes_a_session_ends_it() -> None:
    """Rule 4: what is to be pushed next is gone."""
    leader_story(
        """
        > lead isr=1 replicas=1,2 min_insync=1 log=20 hw=20
        > state 2 5
            serving from 5, high watermark 20, log start 0
            something for 2
        > trim 10
        > push 2
            out of range: 10 to 20
        > push 2
            nothing
        > ack 2 20
        """
    )


def test_what_is_not_of_the_current_session_is_not_heard() -> None:
    """Rule 37: of an older session, another epoch, an earlier start, or after the stream was lost."""
    leader_story(
        """
        > lead isr=1,2 log=20
        > state 2 5
            serving from 5, high watermark 0, log start 0
            high watermark 5
            something for 2
        > push 2
            push from 5 to 20, high watermark 5
        > state 2 6 session=2
            serving from 6, high watermark 5, log start 0
            high watermark 6
            something for 2
        > push 2
            push from 6 to 20, high watermark 6
        > ack 2 20 session=1
        > ack 2 20 session=2 epoch=0
        > ack 2 20 session=2 start=11
        > state 2 20 session=1
            fenced: the epoch is 1
        > lose 2 session=1
        > ack 2 18 session=2
            high watermark 18
        > lose 2 session=2
        > ack 2 20 session=2
        > push 2
            nothing
        """
    )


def test_who_says_to_have_what_it_was_not_sent_has_to_say_where_it_is() -> None:
    leader_story(
        """
        > lead isr=1,2 log=20
        > state 2 5
            serving from 5, high watermark 0, log start 0
            high watermark 5
            something for 2
        > ack 2 20
        > push 2
            nothing
        """
    )


def test_a_member_that_went_back_counts_at_its_new_end_and_is_asked_out_at_once() -> None:
    """Rule 37: without a seat, because it lacks what it had acknowledged."""
    leader_story(
        """
        > lead isr=1,2,3 log=20
        > state 2 20
            serving from 20, high watermark 0, log start 0
        > state 3 20
            serving from 20, high watermark 0, log start 0
            high watermark 20
            something for 2,3
        > state 2 10 session=2
            serving from 10, high watermark 20, log start 0
            asks for ISR 1,3 on 0, without a seat (2,)
            something for 2
        > append 25
        > sync
        > push 3
            push from 20 to 25, high watermark 20
        > ack 3 25
        > commit isr=1,3
            high watermark 25
            committed up to 25
        > push 2
            push from 10 to 25, high watermark 25
        > ack 2 25 session=2
            asks for ISR 1,2,3 on 1
        """
    )


def test_who_caught_up_is_asked_in_and_counts_at_once() -> None:
    """Rules 6 and 10: by the high watermark and the start of the epoch; the controller may be slow."""
    leader_story(
        """
        > lead isr=1,2 log=20 hw=10
        > state 3 9
            serving from 9, high watermark 10, log start 0
            something for 3
        > state 2 20
            serving from 20, high watermark 10, log start 0
            high watermark 20
            something for 2
        > push 3
            push from 9 to 20, high watermark 20
        > ack 3 19
        > ack 3 20
            asks for ISR 1,2,3 on 0
        > append 25
        > sync
        > push 2
            push from 20 to 25, high watermark 20
        > ack 2 25
        > altered accepted
        > commit isr=1,2,3
        > push 3
            push from 20 to 25, high watermark 20
        > ack 3 25
            high watermark 25
            committed up to 25
        """
    )


def test_who_is_fenced_or_has_started_anew_is_not_asked_in() -> None:
    """Rule 10: its broker epoch is the registered one, and it is neither fenced nor stopping."""
    leader_story(
        """
        > lead isr=1,2 log=20
        > state 2 20
            serving from 20, high watermark 0, log start 0
            high watermark 20
            something for 2
        > commit b3=fenced
        > state 3 20
            serving from 20, high watermark 20, log start 0
        > commit b3=14
        > state 3 20 start=13 session=2
            fenced: the epoch is 1
        > state 3 20 start=14
            serving from 20, high watermark 20, log start 0
            asks for ISR 1,2,3 on 0
        """
    )


def test_one_change_is_asked_for_at_a_time_and_who_waits_for_the_next_is_not_left_behind() -> None:
    """Rules 6 and 10: a replica about to join holds the high watermark, too."""
    leader_story(
        """
        > lead isr=1 replicas=1,2,3 min_insync=1 log=20 hw=20
        > state 2 20
            serving from 20, high watermark 20, log start 0
            asks for ISR 1,2 on 0
        > state 3 20
            serving from 20, high watermark 20, log start 0
        > append 25
            something for 2,3
        > sync
        > push 2
            push from 20 to 25, high watermark 20
        > ack 2 25
        > commit isr=1,2
            asks for ISR 1,2,3 on 1
        > push 3
            push from 20 to 25, high watermark 20
        > ack 3 25
            high watermark 25
            committed up to 25
        """
    )


def test_a_shrink_counts_only_when_it_is_committed() -> None:
    """Rules 6 and 9: who lags is asked out after the time that it may, and waited for until that is seen."""
    leader_story(
        """
        > lead isr=1,2,3 log=20
        > state 2 20
            serving from 20, high watermark 0, log start 0
        > state 3 20
            serving from 20, high watermark 0, log start 0
            high watermark 20
            something for 2,3
        > tick 60000
        > append 25
        > sync
        > push 2
            push from 20 to 25, high watermark 20
        > ack 2 25
        > tick 10000
        > tick 1
            asks for ISR 1,2 on 0
        > altered accepted
        > tick 5000
        > commit isr=1,2
            high watermark 25
            committed up to 25
        > push 3
            push from 20 to 25, high watermark 25
        > ack 3 25
            asks for ISR 1,2,3 on 1
        """
    )


def test_a_new_leader_gives_every_member_the_whole_time() -> None:
    """Rule 9: its clocks begin with it, whatever a member lacked before."""
    leader_story(
        """
        > lead isr=1,2,3 log=20 epoch=7
        > tick 10000
        > state 2 20 epoch=7
            serving from 20, high watermark 0, log start 0
        > tick 1
            asks for ISR 1,2 on 0
        """
    )


def test_a_member_lags_from_the_append_of_the_first_record_that_it_lacks() -> None:
    """Rule 9: the first record that it lacks counts, and an idle partition asks nothing of anybody."""
    leader_story(
        """
        > lead isr=1,2
        > state 2 0 last=-
            serving from 0, high watermark 0, log start 0
        > append 5
            something for 2
        > tick 6000
        > append 7
        > push 2
            push from 0 to 7, high watermark 0
        > ack 2 5
        > tick 6000
        > tick 4001
            asks for ISR 1 on 0
        """
    )


def test_a_change_without_an_answer_is_asked_for_again() -> None:
    """Rule 11: it stays pending until the metadata shows what became of it; then an answer is too late."""
    leader_story(
        """
        > lead isr=1,2 log=20
        > state 2 20
            serving from 20, high watermark 0, log start 0
            high watermark 20
            something for 2
        > state 3 20
            serving from 20, high watermark 20, log start 0
            asks for ISR 1,2,3 on 0
        > altered unknown
        > tick 500
        > tick 500
            asks for ISR 1,2,3 on 0
        > altered refused
        > tick 1000
            asks for ISR 1,2,3 on 0
        > commit isr=1,2
            asks for ISR 1,2,3 on 1
        > altered accepted
        """
    )


def test_ineligible_ends_a_change_that_was_asked_for_once() -> None:
    """Rule 11: back to what is committed; the shrink in it is asked for by itself, the join a while later."""
    leader_story(
        """
        > lead isr=1,2 log=20
        > state 2 20
            serving from 20, high watermark 0, log start 0
            high watermark 20
            something for 2
        > state 3 20
            serving from 20, high watermark 20, log start 0
            asks for ISR 1,2,3 on 0
        > lose 3
        > append 21
        > sync
        > push 2
            push from 20 to 21, high watermark 20
        > ack 2 21
        > altered ineligible
            high watermark 21
            committed up to 21
        > state 3 21 session=2 durable=21
            serving from 21, high watermark 21, log start 0
        > tick 999
        > tick 1
            asks for ISR 1,2,3 on 0
        """
    )


def test_ineligible_does_not_end_one_that_may_still_be_under_way() -> None:
    """Rule 11: the other request could let it in later; a change that changes nothing makes it too late."""
    leader_story(
        """
        > lead isr=1,2 log=20
        > state 2 20
            serving from 20, high watermark 0, log start 0
            high watermark 20
            something for 2
        > state 3 20
            serving from 20, high watermark 20, log start 0
            asks for ISR 1,2,3 on 0
        > lose 3
        > append 21
        > sync
        > push 2
            push from 20 to 21, high watermark 20
        > ack 2 21
        > tick 1000
            asks for ISR 1,2,3 on 0
        > altered ineligible
            asks for ISR 1,2 on 0
        > commit isr=1,2
            high watermark 21
            committed up to 21
        """
    )


def test_below_min_insync_nothing_is_committed_and_who_waits_is_told() -> None:
    """Rules 6 and 8: strict minISR, by the ISR and the setting of one version of the metadata."""
    leader_story(
        """
        > lead isr=1,2 log=20
        > state 2 20
            serving from 20, high watermark 0, log start 0
            high watermark 20
            something for 2
        > append 25
        > sync
        > commit isr=1 b2=fenced
            too few in sync for up to 25
        > append 27
        > commit b2=unfenced
            asks for ISR 1,2 on 1
        > push 2
            push from 20 to 27, high watermark 20
        > ack 2 25
        > commit isr=1,2
            high watermark 25
        """
    )


def test_a_minimum_that_is_raised_counts_at_once() -> None:
    """Rule 8."""
    leader_story(
        """
        > lead isr=1,2 replicas=1,2 min_insync=1 log=20
        > state 2 20
            serving from 20, high watermark 0, log start 0
            high watermark 20
            something for 2
        > append 25
        > commit min_insync=3
            too few in sync for up to 25
        """
    )


def test_without_the_lease_only_those_count_that_have_a_session() -> None:
    """Rule 39: a leader that may be cut off takes nothing that it could not commit."""
    story = LeaderStory()
    story.tell("> lead isr=1,2,3 min_insync=2")
    story.leader.check_in_sync()
    with pytest.raises(NotEnoughReplicas) as refused:
        story.leader.check_in_sync(has_lease=False)
    assert (refused.value.in_sync, refused.value.needed) == (1, 2)
    story.tell("> state 2 0 last=-")
    story.leader.check_in_sync(has_lease=False)


def test_a_replica_that_is_none_any_more_is_forgotten() -> None:
    story = LeaderStory()
    story.tell("> lead isr=1,2 min_insync=1\n> state 3 0 last=-")
    story.replicas = frozenset({1, 2})
    story.tell("> commit isr=1,2\n> append 5\n> state 3 0 last=- session=2")
    assert story.said[-2:] == ["> state 3 0 last=- session=2", "    unknown: the epoch is 1"]


def test_what_is_kept_of_append_times_is_bounded_and_never_too_early() -> None:
    """Rule 9."""
    times = AppendTimes(10_000, 0)
    appended = {}
    for offset in range(0, 100_000, 7):
        appended[offset] = offset
        times.appended(offset, offset)
    assert len(times) <= 20
    now = max(appended)
    for offset, at_ms in appended.items():
        late = times.at_ms(offset) - at_ms
        assert late >= 0 or now - at_ms > 10_000
        assert late <= 10_000 // 16 or now - times.at_ms(offset) > 10_000
