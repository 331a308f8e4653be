"""The errors a user sees: one line that says what, where and what to do next."""

import errno


class UsageError(Exception):
    """The request cannot be met as asked (exit code 2)."""

    exit_code = 2


class RunError(Exception):
    """The request was valid and something failed while it ran, or a check did (exit code 1)."""

    exit_code = 1


def one_line(error: BaseException) -> str:
    """What a library says of an error, which may be a page, on one line."""
    return " ".join(str(error).split())


def reason_of(error: OSError) -> str:
    """What the system says of an error of a disk, as a sentence ends."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return "the disk is full" if full else (error.strerror or str(error))
