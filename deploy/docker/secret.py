"""Makes the cluster's secret, if there is none: run by `make up` in the image itself, as its root.

A file-based secret is mounted as it lies on the host. Only a container's root may give the file to the
broker's user, whoever calls make and whatever ids the engine maps; so it is 0600 and nobody else's.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from pathlib import Path

OWNER = 10001
SECRET_BYTES = 32


def main() -> None:
    """Leave alone what is there: brokers that run have it."""
    path = Path(sys.argv[1])
    draft = path.with_name(f"{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        draft.unlink()
    if path.exists():
        return
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secrets.token_hex(SECRET_BYTES) + "\n")
    os.chown(draft, OWNER, OWNER)
    draft.rename(path)
    print("made the cluster's secret")


if __name__ == "__main__":
    main()
