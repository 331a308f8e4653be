"""The errors a user sees: one line that says what, where and what to do next."""


class UsageError(Exception):
    """The request cannot be met as asked (exit code 2)."""

    exit_code = 2


class RunError(Exception):
    """The request was valid and something failed while it ran, or a check did (exit code 1)."""

    exit_code = 1


def one_line(error: BaseException) -> str:
    """What a library says of an error, which may be a page, on one line."""
    return " ".join(str(error).split())
