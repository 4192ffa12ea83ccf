"""Requests to servers, which are tried again when what went wrong may pass.

One policy for all kinds of storage: the libraries below are told not to try again by themselves,
so that the tries do not multiply. What may pass are busy servers (500 to 504, 429, SlowDown), cut
connections and replies that do not come in time.
"""

from __future__ import annotations

import errno
import logging
import random
import sys
import time
from collections.abc import Callable
from typing import Final, TypeVar

from flatcal.errors import StorageError

logger = logging.getLogger(__name__)

REQUESTS_AT_ONCE: Final = 16
TRIES: Final = 6
# Doubled each time: 0.25, 0.5, 1, 2, 4 s, each shortened at random by up to a half, so that many
# who were turned away together do not come back together.
FIRST_WAIT_S: float = 0.25

_Result = TypeVar("_Result")

_MAY_PASS: Final = frozenset(
    (errno.EAGAIN, errno.EBUSY, errno.EIO, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH)
    + ((errno.EREMOTEIO,) if hasattr(errno, "EREMOTEIO") else ())
)
_STATUS_MAY_PASS: Final = frozenset((429, 500, 502, 503, 504))


def request(address: str, what: str, act: Callable[[], _Result]) -> _Result:
    """Do something with a server, several times if need be.

    Parameters
    ----------
    address : str
        What it is about.
    what : str
        What is done, for messages: 'reading', 'writing'.
    act : callable
        Does it; it must do no harm to do it twice.

    Raises
    ------
    StorageError
        The server stays away or busy, or gives an answer that nobody understands.
    OSError
        The server says what is wrong: there is no such file, it must not be read.
    """
    for number in range(1, TRIES + 1):
        try:
            return act()
        except Exception as error:
            if not _may_pass(error):
                if isinstance(error, OSError):
                    raise
                raise StorageError("remote-storage", f"{what} {address}: {_told(error)}") from error
            if number == TRIES:
                raise StorageError(
                    "remote-storage",
                    f"{what} {address} was tried {TRIES} times: {_told(error)}; see that the "
                    "server is there and run again, what is done is kept",
                ) from error
            wait_s = FIRST_WAIT_S * 2 ** (number - 1) * random.uniform(0.5, 1)
            logger.info(
                "%s %s: %s; try %d of %d in %.1f s",
                what, address, _told(error), number + 1, TRIES, wait_s,
            )  # fmt: skip
            time.sleep(wait_s)
    raise AssertionError("unreachable")


def _may_pass(error: Exception) -> bool:
    if isinstance(error, _transient_types()):
        return True
    if isinstance(error, OSError) and error.errno in _MAY_PASS:
        return True
    return getattr(error, "status", None) in _STATUS_MAY_PASS


def _transient_types() -> tuple[type[Exception], ...]:
    """Of the libraries that are loaded: cut connections and replies that do not come."""
    types: list[type[Exception]] = [ConnectionError, TimeoutError]
    if "s3fs.core" in sys.modules:
        types += sys.modules["s3fs.core"].S3_RETRYABLE_ERRORS
        errors = sys.modules["botocore.exceptions"]
        types += (errors.ConnectionError, errors.HTTPClientError)
    if "aiohttp" in sys.modules:
        aiohttp = sys.modules["aiohttp"]
        types += (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError)
    return tuple(types)


def _told(error: Exception) -> str:
    """What an error says, on one line; its name where it says nothing."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
