"""The cluster's secret: the bytes of a small file that every broker of a cluster has."""

from __future__ import annotations

import logging
import stat
from pathlib import Path
from typing import Final

from millpond.wire.errors import InvalidConfig
from millpond_broker.observe.logs import event

_log: Final = logging.getLogger(__name__)

SECRET_BYTES_MIN: Final = 16
"""Less could be guessed by whoever answers in a broker's place and keeps the proof that it got."""
SECRET_BYTES_MAX: Final = 4096
"""More is some other file."""
_KEY: Final = "cluster.secret_file"
_OTHERS: Final = 0o077


def read_secret(path: Path) -> bytes:
    """The file's bytes without a newline at their end. One that others may read is told to the log.

    Raises InvalidConfig: there is no such file, it cannot be read, it is too short or too long.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # opening a pipe would wait for its writer
            raise InvalidConfig(key=_KEY, reason=f"{path} is no file")
        with path.open("rb") as file:
            data = file.read(SECRET_BYTES_MAX + 3)  # a newline and one byte too many
    except OSError as error:
        raise InvalidConfig(key=_KEY, reason=f"{path} cannot be read: {error.strerror}") from None
    secret = data.removesuffix(b"\n").removesuffix(b"\r")
    if len(secret) < SECRET_BYTES_MIN:
        reason = f"{path} has {len(secret)} bytes, less than {SECRET_BYTES_MIN}: too easy to guess"
        raise InvalidConfig(key=_KEY, reason=reason)
    if len(secret) > SECRET_BYTES_MAX:
        raise InvalidConfig(key=_KEY, reason=f"{path} has more than {SECRET_BYTES_MAX} bytes")
    if mode & _OTHERS:
        event(
            _log, logging.WARNING, "secret_file_readable_by_others", path=str(path), mode=f"{mode & 0o777:o}"
        )
    return secret
