"""For your tests: real brokers on this machine, started and ended by the test.

    with LocalCluster() as cluster:
        ...  # cluster.bootstrap, cluster.client(), cluster.kill(0), …

The pytest plugin beside it (fixtures `millpond_cluster` and `millpond_topic`) is installed with the package.
Nothing but the standard library is imported until a cluster is made: pytest imports this in every project
of an environment that has millpond installed.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from millpond.testing.cluster import LocalCluster

__all__ = ["LocalCluster"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module("millpond.testing.cluster"), name)
    globals()[name] = value
    return value
