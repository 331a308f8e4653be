"""The errors a user sees: one line that says what, where and what to do next."""

import errno

_MOST = 2_000  # characters of a message, of which a stranger's file may have made most


class _Shown(Exception):
    """An error whose message is one line, whoever chose the names and values in it."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UsageError(_Shown):
    """The request cannot be met as asked (exit code 2)."""

    exit_code = 2


class RunError(_Shown):
    """The request was valid and something failed while it ran, or a check did (exit code 1)."""

    exit_code = 1


def one_line(error: BaseException) -> str:
    """What a library says of an error, which may be a page, on one line."""
    return " ".join(str(error).split())


def printable(message: str) -> str:
    """A message, cut where it is long; what would end a line or move a cursor is its escape."""
    if len(message) > _MOST:
        message = f"{message[: _MOST // 2]} ... {message[-_MOST // 2 :]}"
    if message.isprintable():
        return message
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)


def reason_of(error: OSError) -> str:
    """What the system says of an error of a disk, as a sentence ends."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "the disk is full" if full else (error.strerror or str(error))
