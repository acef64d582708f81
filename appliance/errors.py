"""Errors that a person can act on: what went wrong, where, and what to do about it."""

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_CHANGES = 3
EXIT_UNREACHABLE = 4
EXIT_ROLLED_BACK = 5
EXIT_INTERRUPTED = 130


class CasemateError(Exception):
    """Something failed; `place` says where, `cure` what to do, `exit_code` what the command ends with."""

    exit_code = EXIT_FAILED

    def __init__(self, message: str, *, place: str = "", cure: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.place = place
        self.cure = cure

    def as_dict(self) -> dict:
        """The shape that `-o json` prints: {"error", "place", "cure"}."""
        return {"error": self.message, "place": self.place, "cure": self.cure}


class UsageError(CasemateError):
    """The command line or the inventory cannot be right; nothing was touched."""

    exit_code = EXIT_USAGE


class UnreachableError(CasemateError):
    """A host did not answer."""

    exit_code = EXIT_UNREACHABLE
