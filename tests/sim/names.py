"""The simulated directory tree: names as the cache shows them, names on disk, and the changes
between.

Creating, renaming and unlinking are pending until a sync of a directory they touch. A crash lets
each pending change happen or not, in order and independently, with three limits that every file
system keeps: a rename is atomic, a file has one name at a time, and a name that was confirmed goes
away only for a change that meant it to (a lost rename followed by a surviving create must not bury
the file that should have moved).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from tests.sim.pages import Pages, survivors


@dataclass(eq=False)
class FileNode:
    """A file, whatever its name. `home` is its place on disk; `locked`: somebody holds its lock."""

    pages: Pages = field(default_factory=Pages)
    home: Place | None = None
    locked: bool = False


@dataclass(eq=False)
class DirectoryNode:
    """A directory: the names in it as the cache shows them, and as they are on disk."""

    cached: dict[str, Node] = field(default_factory=dict)
    durable: dict[str, Node] = field(default_factory=dict)
    home: Place | None = None


Node = FileNode | DirectoryNode
Place = tuple[DirectoryNode, str]


@dataclass(frozen=True)
class NameChange:
    """`node` went from `source` to `target`: None on one side for a create or an unlink.

    `condemned` is the node that lost its last name by it, if one did.
    """

    node: Node
    source: Place | None
    target: Place | None
    condemned: Node | None

    def touches(self, directory: DirectoryNode) -> bool:
        """Whether a sync of `directory` has to confirm it."""
        return any(place is not None and place[0] is directory for place in (self.source, self.target))


class Tree:
    """All names of one simulated file system. The root is there from the start, and durable."""

    def __init__(self) -> None:
        self.root = DirectoryNode()
        self._pending: list[NameChange] = []

    def change(self, node: Node, source: Place | None, target: Place | None) -> None:
        """Move `node` in the cached view; the caller has checked that it may."""
        condemned: Node | None = None if target is not None else node
        if source is not None:
            del source[0].cached[source[1]]
        if target is not None:
            condemned = target[0].cached.pop(target[1], None)
            target[0].cached[target[1]] = node
        self._pending.append(NameChange(node, source, target, condemned))

    def settle(self, directory: DirectoryNode) -> None:
        """Confirm the names in `directory`, and what happened before to the nodes they are
        about.
        """
        about: set[int] = set()
        chosen: set[int] = set()
        for change in reversed(self._pending):
            nodes = {id(node) for node in (change.node, change.condemned) if node is not None}
            if change.touches(directory) or nodes & about:
                about |= nodes
                chosen.add(id(change))
        self._replay(lambda change: id(change) in chosen)
        self._pending = [change for change in self._pending if id(change) not in chosen]

    def settle_all(self) -> None:
        """Confirm every name."""
        self._replay(lambda _: True)
        self._pending.clear()

    def crash(self, random: Random) -> None:
        """Lose power: some of the pending changes happened. The content of files is untouched."""
        survives = iter(survivors(random, len(self._pending)))
        self._replay(lambda _: next(survives))
        self._pending.clear()
        for directory in list(walk(self.root, durable=True)):
            if isinstance(directory, DirectoryNode):
                directory.cached = dict(directory.durable)

    def _replay(self, happens: Callable[[NameChange], bool]) -> None:
        condemned: set[int] = set()
        for change in self._pending:
            if change.condemned is not None:
                condemned.add(id(change.condemned))
            if happens(change):
                _apply(change, condemned)


def walk(directory: DirectoryNode, *, durable: bool = False) -> Iterator[Node]:
    """Every node under `directory` and itself, in an order that depends on nothing but history."""
    yield directory
    for node in (directory.durable if durable else directory.cached).values():
        if isinstance(node, DirectoryNode):
            yield from walk(node, durable=durable)
        else:
            yield node


def _apply(change: NameChange, condemned: set[int]) -> None:
    """Let one change happen on disk, unless it would take away a name that nobody meant to."""
    place = change.source if change.target is None else change.target
    assert place is not None, "a change has a source or a target"
    directory, name = place
    occupant = directory.durable.get(name)
    if occupant is change.node and change.target is not None:
        return
    if occupant is not None:
        if not all(id(node) in condemned for node in _nodes(occupant)):
            return
        if change.target is not None and _holds(occupant, change.node):
            return
    if change.target is not None and _holds(change.node, directory):
        return
    if occupant is not None:
        del directory.durable[name]
        occupant.home = None
    if change.target is not None:
        if change.node.home is not None:
            old_directory, old_name = change.node.home
            del old_directory.durable[old_name]
        directory.durable[name] = change.node
        change.node.home = place


def _nodes(node: Node) -> Iterator[Node]:
    return walk(node, durable=True) if isinstance(node, DirectoryNode) else iter((node,))


def _holds(outer: Node, inner: Node) -> bool:
    return any(node is inner for node in _nodes(outer))
