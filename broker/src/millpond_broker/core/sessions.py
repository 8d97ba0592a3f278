"""Which brokers are alive, as the controller of one epoch sees it: the controller's half of rule 39.

A broker is alive while its session is open: its registration opens it, heartbeats keep it open, silence or a
failed probe closes it. Events come in with the time of a clock that only goes forward (ms); what is open goes
to `controller.plan`, which fences and unfences. Nothing here is about safety, which rests on epochs alone: a
false alarm costs an election, a late one some seconds.

One machine for each claim. Whoever runs it calls `tick` every `tick_ms`, with all heartbeats that have
arrived and were not told yet: nobody is expired whose heartbeat lies in a queue of ours.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from millpond_broker.core.state import BrokerImage, BrokerState, MetadataImage


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """Bounds of sessions. Times in ms."""

    session_ms: int = 3000
    """Silence after which a broker is fenced. Its lease is as long, from when it sent its last heartbeat."""
    probe_ms: int = 300
    """In which a broker whose connection closed has to accept another, as the same incarnation."""
    tick_ms: int = 100
    """How often `tick` is called."""
    tick_gap_ms_max: int = 300
    """A longer time between two ticks was a pause of ours, in which nobody could be heard."""

    def __post_init__(self) -> None:
        assert 0 < self.tick_ms <= self.tick_gap_ms_max < self.session_ms, (
            "a gap is told before a session ends"
        )
        assert 0 < self.probe_ms < self.session_ms, "a probe is what is faster than a session"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a broker says of itself. `applied_index`: of the metadata that it has (rule 44); `loop_lag_ms`:
    how long its event loop has had no turn, which threads that go on heartbeating would hide.
    """

    broker_id: int
    broker_epoch: int
    applied_index: int
    feature_level: int
    loop_lag_ms: int = 0


class Heard(enum.Enum):
    """What a heartbeat is to be answered with."""

    EXTENDED = "extended"
    """The session goes on, and so does the lease: a session from when the broker sent it."""
    FENCED = "fenced"
    """The session is open, but the broker is fenced: it has no lease, and catches up."""
    IGNORED = "ignored"
    """No lease: its session is over and it is about to be fenced, or its loop hangs."""
    STRANGER = "stranger"
    """Another start of it is registered, or none: it registers, or learns that it is over."""


@dataclass(frozen=True, slots=True)
class Session:
    """An open session: of which start, since when, and what the broker said last. `is_heard` False: nothing
    yet, to this controller.
    """

    broker_epoch: int
    opened_at_ms: int
    applied_index: int = 0
    feature_level: int = 1
    is_heard: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """A connection to try: to this broker, which has to say that it is of this incarnation."""

    broker_id: int
    broker_epoch: int
    incarnation: bytes


@dataclass(slots=True)
class _Known:
    """A registered start. Its session is open iff `session` is there."""

    broker: BrokerImage
    session: Session | None
    expires_at_ms: int
    """Of the session."""
    probe_ends_at_ms: int | None = None
    """While a probe is under way. Only its own answer ends it: what is heard meanwhile may have been sent
    before the connection closed."""


class Sessions:
    """See the module. `image` is that of the claim."""

    def __init__(self, options: SessionOptions, image: MetadataImage, now_ms: int) -> None:
        self._options = options
        self._known: dict[int, _Known] = {}
        self._now_ms = self._ticked_at_ms = now_ms
        self.follow(image, now_ms)

    def claimed(self, now_ms: int) -> tuple[Probe, ...]:
        """Who is to be probed at the claim: everybody, because nobody's silence was this controller's to
        hear so far.
        """
        probes = (self.connection_closed(broker_id, now_ms) for broker_id in list(self._known))
        return tuple(probe for probe in probes if probe is not None)

    def follow(self, image: MetadataImage, now_ms: int) -> None:
        """There is a newer image. A start that is new to this controller has a full session; one that was
        fenced since it registered has to be heard first.
        """
        self._advance(now_ms)
        for broker_id, broker in image.brokers.items():
            known = self._known.get(broker_id)
            if known is not None and known.broker.epoch == broker.epoch:
                known.broker = broker
                continue
            session = None if broker.is_lost else Session(broker.epoch, now_ms)
            self._known[broker_id] = _Known(broker, session, now_ms + self._options.session_ms)

    def heard(self, heartbeat: Heartbeat, now_ms: int) -> Heard:
        """A heartbeat came in. A session that has ended opens again only once the broker is fenced: a lease
        that is given meanwhile would outlive its leadership.
        """
        self._advance(now_ms)
        known = self._known.get(heartbeat.broker_id)
        if known is None or known.broker.epoch != heartbeat.broker_epoch:
            return Heard.STRANGER
        is_fenced = known.broker.state is BrokerState.FENCED
        if heartbeat.loop_lag_ms >= self._options.session_ms or (known.session is None and not is_fenced):
            return Heard.IGNORED
        session = known.session or Session(heartbeat.broker_epoch, now_ms)
        known.session = replace(
            session,
            applied_index=max(session.applied_index, heartbeat.applied_index),
            feature_level=heartbeat.feature_level,
            is_heard=True,
        )
        known.expires_at_ms = max(known.expires_at_ms, now_ms + self._options.session_ms)
        return Heard.FENCED if is_fenced else Heard.EXTENDED

    def connection_closed(self, broker_id: int, now_ms: int) -> Probe | None:
        """A broker closed its connection. The probe to make now; None for one whose session is not open, or
        that is being probed.
        """
        self._advance(now_ms)
        known = self._known.get(broker_id)
        if known is None or known.session is None or known.probe_ends_at_ms is not None:
            return None
        known.probe_ends_at_ms = now_ms + self._options.probe_ms
        return Probe(broker_id, known.broker.epoch, known.broker.incarnation)

    def probed(self, probe: Probe, incarnation: bytes | None, now_ms: int) -> None:
        """What a probe found: who accepted the connection; None: refused, or unreachable. Another than was
        asked for means that that one is over. An answer in time keeps the session, and does not extend it.
        """
        self._advance(now_ms)
        known = self._known.get(probe.broker_id)
        if known is None or known.broker.epoch != probe.broker_epoch or known.probe_ends_at_ms is None:
            return
        known.probe_ends_at_ms = None
        if incarnation != probe.incarnation:
            known.session = None

    def tick(self, now_ms: int, arrived: Iterable[Heartbeat] = ()) -> tuple[int, ...]:
        """Time goes on. `arrived`: heartbeats that came in and were not told yet. Whose session ended.

        After a gap in our own ticking everything is put off by it: nobody could be heard in it.
        """
        gap_ms = now_ms - self._ticked_at_ms
        if gap_ms > self._options.tick_gap_ms_max:
            self._put_off(gap_ms - self._options.tick_ms)
        self._advance(now_ms)
        for heartbeat in arrived:
            self.heard(heartbeat, now_ms)
        ended = []
        for broker_id, known in self._known.items():
            is_unanswered = known.probe_ends_at_ms is not None and known.probe_ends_at_ms <= now_ms
            if is_unanswered:
                known.probe_ends_at_ms = None
            if known.session is not None and (is_unanswered or known.expires_at_ms <= now_ms):
                known.session = None
                ended.append(broker_id)
        self._ticked_at_ms = now_ms
        return tuple(ended)

    @property
    def open(self) -> Mapping[int, Session]:
        """Open sessions by broker id: who is alive."""
        return {key: known.session for key, known in self._known.items() if known.session is not None}

    def _put_off(self, by_ms: int) -> None:
        for known in self._known.values():
            known.expires_at_ms += by_ms
            if known.probe_ends_at_ms is not None:
                known.probe_ends_at_ms += by_ms

    def _advance(self, now_ms: int) -> None:
        assert now_ms >= self._now_ms, "this clock only goes forward"
        self._now_ms = now_ms
