"""Every error Backbeat raises to a person, in one tree.

    BackbeatError                 exit 1
    ├── ConfigError               exit 2   a setting, flag or file is wrong
    ├── DefinitionError           exit 2   a task module does not import or declares something impossible
    ├── InputError                exit 2   a payload, line or repository is not what it must be
    ├── NotFoundError             exit 3   the named row does not exist
    ├── AuthError                 exit 4   no token, a wrong token, or not eligible
    ├── ConflictError             exit 5   already decided, already finished, somebody else holds it
    ├── SchemaError               exit 1   migrations are missing, edited or newer than this program
    └── UnavailableError          exit 75  Postgres, Temporal, ClickHouse or a provider is away: try again

``str(error)`` is one line for a person: what happened, to which row or file, and what to do.
Outcomes of a task (snooze, hold, escalate) are values in `shared.domain.outcome`, not errors.
"""

from typing import ClassVar

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_NOT_FOUND = 3
EXIT_AUTH = 4
EXIT_CONFLICT = 5
EXIT_HUNG = 70  # a worker left while a task of it would not end
EXIT_TEMPORARY = 75


class BackbeatError(Exception):
    """Something went wrong that a person can act on.

    ``what`` says what happened and to which thing; ``fix`` says what to do about it.
    """

    exit_code: ClassVar[int] = EXIT_FAILURE

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.what}. {self.fix}" if self.fix else self.what


class ConfigError(BackbeatError):
    """A setting, flag or configuration file is wrong."""

    exit_code = EXIT_USAGE


class DefinitionError(BackbeatError):
    """A task module does not import or declares something impossible."""

    exit_code = EXIT_USAGE


class InputError(BackbeatError):
    """A payload, an input line or a repository is not what it must be."""

    exit_code = EXIT_USAGE


class NotFoundError(BackbeatError):
    """The named row does not exist."""

    exit_code = EXIT_NOT_FOUND


class AuthError(BackbeatError):
    """No token, a wrong token, or a person who may not do this."""

    exit_code = EXIT_AUTH


class ConflictError(BackbeatError):
    """The row is already decided, already finished or held by somebody else."""

    exit_code = EXIT_CONFLICT


class SchemaError(BackbeatError):
    """Migrations are missing, were edited, or are newer than this program."""


class UnavailableError(BackbeatError):
    """A system Backbeat needs did not answer; the same command may work later."""

    exit_code = EXIT_TEMPORARY
