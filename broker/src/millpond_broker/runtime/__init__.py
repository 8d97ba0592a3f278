"""Asyncio around the decisions: performs what `core` decides on the logs of `storage`, in a set order.

One event loop owns everything here. Blocking disk work that may take long (syncs, opening, deleting) runs in
a `DiskThread`; what it answers comes back to the loop before anything is counted. Nothing here knows gRPC.
"""
