"""What travels and what is stored, as pure functions: no file, socket, clock or thread.

The client and the broker share this package and nothing else that is written by hand. Its modules from
the outside in: `batch` (encode and decode a whole record batch) on `header`, `columns` and `compression`;
`frame` (what a replica writes in front of a stored batch); `record`, `names`, `partitioner`, `errors`.
"""
