"""The server side of millpond: storage and, on it, the broker."""
