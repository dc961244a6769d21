"""The exceptions of etl: one tree, each class with its exit code.

The class docstring is the default message. Exceptions cross processes by pickle, so they are built from positional
arguments only and hold no handles. The exit codes are listed in README.md; only ``etl.cli`` exits.
"""


class EtlError(Exception):
    """The run failed."""

    exit_code = 1

    def __init__(self, message: str | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.message = message or (type(self).__doc__ or "").strip()
        self.hint = hint

    def __str__(self) -> str:
        """Return the sentence, then the next step on a line of its own."""
        return f"{self.message}\n  next: {self.hint}" if self.hint else self.message


class UsageError(EtlError):
    """The command was called in a way that cannot work."""

    exit_code = 2


class InputError(EtlError):
    """The input cannot be read, has an unknown shape, or has changed since the split."""

    exit_code = 5


class TooManyRejects(InputError):
    """More records had to be set aside than --max-rejects allows; nothing was published."""


class StoreError(InputError):
    """The store is missing, damaged, or written by another version."""


class DatabaseError(EtlError):
    """The database cannot be reached, or refused."""

    exit_code = 4


class Transient(DatabaseError):
    """The database went away or was too busy; the same thing may well succeed in a moment."""

    def __init__(self, message: str | None = None, hint: str | None = None, sqlstate: str | None = None) -> None:
        super().__init__(message, hint)
        self.sqlstate = sqlstate


class Refused(DatabaseError):
    """The database refused what it was sent, and would refuse it again."""


class SchemaError(EtlError):
    """The database holds something else, or a newer schema."""

    exit_code = 6


class MismatchError(EtlError):
    """What was loaded is not what was split."""

    exit_code = 6


class WorkerDied(EtlError):
    """A worker process died twice on the same task."""


class Incomplete(EtlError):
    """The run stopped before the end; the same command goes on."""

    exit_code = 75


class Busy(EtlError):
    """Another run holds the lock."""

    exit_code = 76


class Interrupted(EtlError):
    """The run was interrupted."""

    exit_code = 130


class Terminated(KeyboardInterrupt):
    """SIGTERM came where nobody drains for it, or for the second time."""
