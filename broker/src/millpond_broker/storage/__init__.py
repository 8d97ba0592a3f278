"""Bytes on disk: everything here goes through one injectable file layer, `files`.

`directory` locks a data directory and knows what it is; `log` is one partition's log, made of `segment`s
with their sparse `index`es, started by `recovery`, read by `reading`, kept short by truncation and
retention; `health` is why it takes no changes, if so; `replica` takes apart and verifies what a leader
pushed. `document` is the small checksummed file that checkpoints and settings use; `group_commit` makes the
dirty segments of many logs durable in one call. Nothing here starts a thread or reads a clock: callers pass
`now_ms` and decide where a blocking call runs.
"""
