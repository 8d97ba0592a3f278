"""What the client decides, without doing it: no clock, randomness, task or socket in here.

`cluster` is who leads what, `retry` how long to wait and until when, `positions` where a consumer stands,
`buffer` what it has fetched and not handed out, `serdes` how values become bytes and back.
"""
