"""What the client decides, without doing it: no clock, randomness, task or socket in here.

`cluster` is who leads what, `retry` how long to wait and until when, `serdes` how values become bytes and
back, `times` how a time is written. A consumer, from the outside in: `assignment` says which partitions,
`hand` what is handed out next, `handout` how a batch becomes that, `fetch_buffer` what waits for it,
`fetcher` what is asked of whom, and `session` holds the states of that.
"""
