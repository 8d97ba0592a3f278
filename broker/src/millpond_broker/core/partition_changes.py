"""What happens to one partition when brokers come, go, fall behind or lose bytes: rules 11 and 13 to 15.

Pure functions from one `PartitionImage` to the next, called by the command handlers, from feature level 2 on.
Each keeps this: who is in the ISR or the ELR has all that was acknowledged, unless a cut is noted with it; a
new leader comes from there, or its epoch is marked as recovering. What did not change is the same object, by
which callers and readers tell.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import replace

from millpond_broker.core.commands import Assignment, CutReport
from millpond_broker.core.state import BrokerImage, Cut, PartitionImage

Members = tuple[int, ...]

# --- leaders (rule 14) -----------------------------------------------------------------------------------


def next_leader(old: PartitionImage, alive: Container[int], *, but: int | None = None) -> int | None:
    """Rule 14, as far as it is clean: of the ISR by assignment; without an ISR, of the ELR, except who cut
    bytes. `but` is passed over. None: nobody who may lead is there.
    """
    if old.is_offline:
        return None
    return _first(old, old.isr or _uncut(old, old.elr), alive, but)


def _uncut(old: PartitionImage, members: Members) -> Members:
    if not old.cuts:
        return members
    cut = [cut.broker_id for cut in old.cuts]
    return tuple(member for member in members if member not in cut)


def _first(
    old: PartitionImage, candidates: Members, alive: Container[int], but: int | None = None
) -> int | None:
    for member in old.replicas:
        if member in candidates and member in alive and member != but:
            return member
    return None


def led(old: PartitionImage, leader: int, min_insync: int) -> PartitionImage:
    """Led cleanly in the next epoch: with the ISR that there is, or as the whole ISR."""
    return _led(old, leader, min_insync, old.partition_epoch + 1)


def _led(old: PartitionImage, leader: int, min_insync: int, partition_epoch: int) -> PartitionImage:
    isr = old.isr or (leader,)
    return PartitionImage(
        leader=leader,
        leader_epoch=old.leader_epoch + 1,
        partition_epoch=partition_epoch,
        replicas=old.replicas,
        isr=isr,
        elr=_eligible(old, isr, min_insync),
        recovering_epoch=old.recovering_epoch,
        adding=old.adding,
        removing=old.removing,
        floors=old.floors,
    )


def led_in_recovery(old: PartitionImage, leader: int) -> PartitionImage:
    """Led by one who may lack what was acknowledged. Its log is the measure from here on: nobody else is
    eligible, and what was cut is settled.
    """
    return PartitionImage(
        leader=leader,
        leader_epoch=old.leader_epoch + 1,
        partition_epoch=old.partition_epoch + 1,
        replicas=old.replicas,
        isr=(leader,),
        recovering_epoch=old.leader_epoch + 1,
        adding=old.adding,
        removing=old.removing,
        floors=old.floors,
    )


def led_if_possible(old: PartitionImage, alive: Container[int], min_insync: int) -> PartitionImage:
    """With a leader, if it has none and somebody can be."""
    leader = next_leader(old, alive) if old.leader is None else None
    return old if leader is None else led(old, leader, min_insync)


def resigned(old: PartitionImage, broker_id: int, alive: Container[int], min_insync: int) -> PartitionImage:
    """Its leader's epoch ends (rule 40): another leads, or itself in the next epoch if nobody else can."""
    assert old.leader == broker_id, "who resigns leads"
    if next_leader(old, alive, but=broker_id) is not None:
        # Out of the ISR as well, until its disk works again: else it would be preferred at once.
        return without(old, broker_id, alive, min_insync)
    if broker_id in alive:
        return led(old, broker_id, min_insync)
    return replace(old, leader=None, last_leader=broker_id, partition_epoch=old.partition_epoch + 1)


# --- members (rules 11 and 13) ---------------------------------------------------------------------------


def _eligible(old: PartitionImage, isr: Members, min_insync: int, unseated: Members = ()) -> Members:
    """Rule 13: with enough in sync nobody is merely eligible; else whoever was either stays eligible."""
    if len(isr) >= min_insync:
        return ()
    return tuple(
        [
            member
            for member in old.replicas
            if (member in old.isr or member in old.elr) and member not in isr and member not in unseated
        ]
    )


def with_isr(old: PartitionImage, isr: Members, unseated: Members, min_insync: int) -> PartitionImage:
    """The ISR that its leader asked for. The one that there is makes a new partition epoch, too: by that a
    leader puts an end to what it had asked for before (`InSync.answered`).
    """
    ordered = tuple([member for member in old.replicas if member in isr])
    elr = _eligible(old, ordered, min_insync, unseated)
    return PartitionImage(
        leader=old.leader,
        leader_epoch=old.leader_epoch,
        partition_epoch=old.partition_epoch + 1,
        replicas=old.replicas,
        isr=ordered,
        elr=elr,
        recovering_epoch=old.recovering_epoch,
        adding=old.adding,
        removing=old.removing,
        floors=old.floors and tuple(floor for floor in old.floors if floor[0] not in ordered),
    )


def without(
    old: PartitionImage, broker_id: int, alive: Container[int], min_insync: int, *, unseated: bool = False
) -> PartitionImage:
    """The broker is out of the ISR, and another leads if it did. It stays eligible by rule 13, unless it is
    unseated: then it is out of the ELR as well; or, if nobody else is in either, it is offline with what it
    has (rule 15). Unseating one that has no seat is a change, too: a request of its leader that was made for
    what it had may be under way.
    """
    if broker_id not in old.isr and not (unseated and broker_id in old.replicas and (old.isr or old.elr)):
        return old
    isr = tuple([member for member in old.isr if member != broker_id])
    elr = _eligible(old, isr, min_insync, (broker_id,) if unseated else ())
    if not isr and not elr and (broker_id in old.isr or broker_id in old.elr):
        return _offline(old, broker_id)
    leader, epoch, last = old.leader, old.leader_epoch, old.last_leader
    if leader is None or leader == broker_id:
        last = last if leader is None else leader
        leader = _first(old, isr or _uncut(old, elr), alive)
    if leader is not None and leader != old.leader:
        epoch, last = epoch + 1, None
        if not isr:
            isr = (leader,)
            elr = () if min_insync <= 1 else tuple([member for member in elr if member != leader])
    return PartitionImage(
        leader=leader,
        leader_epoch=epoch,
        partition_epoch=old.partition_epoch + 1,
        replicas=old.replicas,
        isr=isr,
        elr=elr,
        last_leader=last,
        recovering_epoch=old.recovering_epoch,
        adding=old.adding,
        removing=old.removing,
        floors=_with_floors(old, (broker_id,)) if unseated else old.floors,
        cuts=_cuts_of(old, elr) if leader is None else (),
    )


def _with_floors(old: PartitionImage, members: Members) -> tuple[tuple[int, int], ...]:
    """Nothing that these stated before the next partition epoch counts."""
    floors = dict(old.floors) | dict.fromkeys(members, old.partition_epoch + 1)
    return tuple(sorted(floors.items()))


def _offline(old: PartitionImage, broker_id: int) -> PartitionImage:
    """With nobody in ISR and ELR but this broker, which cannot serve what it has."""
    if old.is_offline:
        return old
    return PartitionImage(
        leader=None,
        leader_epoch=old.leader_epoch,
        partition_epoch=old.partition_epoch + 1,
        replicas=old.replicas,
        isr=(),
        elr=(broker_id,),
        last_leader=old.last_leader if old.leader is None else old.leader,
        recovering_epoch=old.recovering_epoch,
        adding=old.adding,
        removing=old.removing,
        floors=old.floors,
        cuts=_cuts_of(old, (broker_id,)),
        is_offline=True,
    )


def with_cleared_elr(old: PartitionImage) -> PartitionImage:
    """Rule 13: for another minISR or replication factor. Without an ISR the ELR stays: nothing is committed
    until it leads again, and nobody else has what was acknowledged.
    """
    if not old.isr or not old.elr:
        return old
    return replace(old, elr=(), partition_epoch=old.partition_epoch + 1)


# --- what a start lost (rule 15) -------------------------------------------------------------------------


def _cuts_of(old: PartitionImage, elr: Members) -> tuple[Cut, ...]:
    return old.cuts and tuple(cut for cut in old.cuts if cut.broker_id in elr)


def _unseated(old: PartitionImage, members: Container[int]) -> PartitionImage:
    """These are not eligible any more. If that was everybody, whoever led last is the one left (rule 14)."""
    elr = tuple(member for member in old.elr if member not in members)
    if elr == old.elr:
        return old
    last = old.last_leader
    if not elr and not old.isr and last not in old.replicas:
        last = old.elr[0]
    return replace(
        old,
        elr=elr,
        cuts=_cuts_of(old, elr),
        last_leader=last,
        is_offline=False,
        partition_epoch=old.partition_epoch + 1,
    )


def registered(
    old: PartitionImage,
    broker_id: int,
    report: CutReport | None,
    brokers: Mapping[int, BrokerImage],
    *,
    lost_seat: bool,
) -> PartitionImage:
    """A broker that was fenced has started anew, as `brokers` has it. `lost_seat`: with flush=interval its
    stop was unclean. `report`: what its recovery cut there; an earlier one stands until it is settled.
    """
    if broker_id not in old.elr:
        return old
    if lost_seat:
        return _unseated(old, (broker_id,))
    cuts = old.cuts
    if report is not None:
        mine = Cut(broker_id, report.last_epoch, report.end)
        cuts = (mine,)
        if old.cuts:
            others = [cut for cut in old.cuts if cut.broker_id != broker_id]
            cuts = tuple(sorted([*others, mine], key=lambda cut: cut.broker_id))
    if cuts and (old.isr or _is_anybody_uncut(old, cuts, brokers)):
        return _unseated(old, [cut.broker_id for cut in cuts])
    if cuts == old.cuts and not old.is_offline:
        return old
    return PartitionImage(
        leader=old.leader,
        leader_epoch=old.leader_epoch,
        partition_epoch=old.partition_epoch + 1,
        replicas=old.replicas,
        isr=old.isr,
        elr=old.elr,
        last_leader=old.last_leader,
        recovering_epoch=old.recovering_epoch,
        adding=old.adding,
        removing=old.removing,
        floors=old.floors,
        cuts=cuts,
        is_offline=False,  # it has recovered anew, and says so again if it has to
    )


def _is_anybody_uncut(old: PartitionImage, cuts: tuple[Cut, ...], brokers: Mapping[int, BrokerImage]) -> bool:
    """Whether a member is there that cut nothing: registered, and not lost since."""
    cut = [entry.broker_id for entry in cuts]
    for member in old.elr:
        if member not in cut and (broker := brokers.get(member)) is not None and not broker.is_lost:
            return True
    return False


def settled(old: PartitionImage, brokers: Mapping[int, BrokerImage]) -> PartitionImage:
    """Who cut loses its seat once a member that cut nothing is there: registered, and not lost since."""
    if old.cuts and _is_anybody_uncut(old, old.cuts, brokers):
        return _unseated(old, [cut.broker_id for cut in old.cuts])
    return old


# --- reassignment ----------------------------------------------------------------------------------------


def reassigned(old: PartitionImage, target: Assignment) -> PartitionImage:
    """On its way to these replicas: those that are new are added at once, those that go stay until
    `finished`. What an earlier reassignment added, and nobody can need, goes at once.
    """
    base = [member for member in old.replicas if member not in old.adding]
    leaving = tuple(
        member
        for member in old.replicas
        if member not in target
        and (member in base or member in old.isr or member in old.elr or member == old.last_leader)
    )
    adding = tuple(member for member in target if member not in base)
    replicas = (*target, *leaving)
    if (replicas, adding, leaving) == (old.replicas, old.adding, old.removing):
        return old
    added = tuple(member for member in target if member not in old.replicas)
    # Rule 13: another replication factor clears the ELR, as `with_cleared_elr`.
    clears = len(replicas) != len(old.replicas) and old.isr
    return replace(
        old,
        replicas=replicas,
        elr=() if clears else old.elr,
        adding=adding,
        removing=leaving,
        floors=tuple(floor for floor in _with_floors(old, added) if floor[0] in replicas),
        partition_epoch=old.partition_epoch + 1,
    )


def why_not_finished(old: PartitionImage, min_insync: int) -> str | None:
    """What speaks against dropping the replicas that a reassignment removes. `min_insync`: the effective one
    of the target.
    """
    if not old.adding and not old.removing:
        return "nothing is being reassigned"
    if missing := [member for member in old.adding if member not in old.isr]:
        return f"broker {missing[0]} is not in sync yet"
    staying = [member for member in old.target if member in old.isr]
    if len(staying) < max(1, min_insync):
        return f"{len(staying)} of the replicas that stay are in sync"
    return None


def finished(old: PartitionImage, alive: Container[int], min_insync: int) -> PartitionImage:
    """With its target as its replicas. Enough of them are in sync, so that nobody is merely eligible."""
    assert why_not_finished(old, min_insync) is None, "asked before"
    target = old.target
    isr = tuple(member for member in target if member in old.isr)
    stays = old.leader if old.leader in isr else None
    changed = PartitionImage(
        leader=stays,
        leader_epoch=old.leader_epoch,
        partition_epoch=old.partition_epoch + 1,
        replicas=target,
        isr=isr,
        last_leader=None if stays is not None else old.last_leader if old.leader is None else old.leader,
        recovering_epoch=old.recovering_epoch,
        floors=tuple(floor for floor in old.floors if floor[0] in target),
    )
    leader = next_leader(changed, alive) if stays is None else None
    return changed if leader is None else _led(changed, leader, min_insync, changed.partition_epoch)
