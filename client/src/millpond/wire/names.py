"""Names of topics and groups, and how a partition is called in messages and directories."""

from __future__ import annotations

import re
from typing import Final

from millpond.wire.errors import InvalidGroupName, InvalidTopicName

NAME_CHARACTERS_MAX: Final = 249
"""Kafka's limit, which tools and habits expect."""

_LEGAL: Final = re.compile(r"[a-zA-Z0-9._-]+", re.ASCII)


def _why_illegal(name: str) -> str | None:
    if not name:
        return "is empty"
    if len(name) > NAME_CHARACTERS_MAX:
        return f"is {len(name)} characters long; {NAME_CHARACTERS_MAX} are allowed"
    if name in (".", ".."):
        return "is a directory of its own"
    if not _LEGAL.fullmatch(name):
        return "has characters other than a-z A-Z 0-9 . _ -"
    return None


def check_topic_name(topic: str) -> None:
    """Raise InvalidTopicName unless a user may create a topic of this name (`__` is for internal ones)."""
    reason = _why_illegal(topic)
    if reason is None and topic.startswith("__"):
        reason = "starts with __, which is kept for internal topics"
    if reason is not None:
        raise InvalidTopicName(topic=topic, reason=reason)


def check_group_name(group: str) -> None:
    """Raise InvalidGroupName unless `group` can name a consumer group."""
    if reason := _why_illegal(group):
        raise InvalidGroupName(group=group, reason=reason)
