"""What every command line does with errors: one line, an exit code, a traceback on request."""

import sys
import traceback
from collections.abc import Callable

from runtimes.errors import RunError, UsageError


def guarded(action: Callable[[], int | None], *, debug: bool, interrupted: str) -> int:
    """Run `action` and return its exit code (None is 0), or that of the error it raised."""
    try:
        return action() or 0
    except (UsageError, RunError) as error:
        if debug:
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"error: interrupted; {interrupted}", file=sys.stderr)
        return 1
