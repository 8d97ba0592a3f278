"""What a broker tells about itself: logs, metrics, the HTTP port that serves them, the lag of its loop.

Nothing here is called for each record, and nothing here can stop the broker.
"""
