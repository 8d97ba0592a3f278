"""Stories of what was deleted: told once it is so everywhere, and brought back by nobody (rule 7)."""

from __future__ import annotations

from tests.unit.core.stories import leader_story


def test_who_still_has_what_was_deleted_does_not_join() -> None:
    """Rule 7: elected, it would bring that back. Who is about to join is awaited, too (rule 6)."""
    leader_story(
        """
        > lead isr=1,2 log=10 hw=10
        > state 2 10
            serving from 10, high watermark 10, log start 0
        > trim 5
            something for 2
        > ack 2 10 log_start=5
        > await 5
            they do
        > state 3 10
            serving from 10, high watermark 10, log start 5
        > ack 3 10 log_start=5
            asks for ISR 1,2,3 on 0
        > trim 6
            something for 3
        > ack 2 10 log_start=6
        > await 6
        > ack 3 10 log_start=6
            committed a log start of 6
        """
    )


def test_a_log_start_is_told_once_all_in_sync_have_it() -> None:
    """Rule 7: whoever leads next does not bring back what was deleted. Who is not in sync is not awaited."""
    leader_story(
        """
        > lead isr=1,2 log=10 hw=10
        > await 0
            they do
        > state 2 10
            serving from 10, high watermark 10, log start 0
        > trim 5
            something for 2
        > await 5
        > push 2
            push from 10 to 10, high watermark 10
        > ack 2 10 log_start=4
        > ack 2 10 log_start=5
            committed a log start of 5
        > await 5
            they do
        > trim 6
        > await 6
        > commit isr=1 b2=fenced
            committed a log start of 6
        """
    )
