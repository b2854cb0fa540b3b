"""Errors a person can act on, one class per exit code.

Every error says what happened, where, why, and the command to type next. Connectors and actions raise these;
only ``cli/`` turns them into text and an exit code.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Exit codes of the program; docs/exit-codes.md is tested against this table."""

    DONE = 0
    UNEXPECTED = 1
    CONFIGURATION = 2
    PREFLIGHT = 3
    LOCKED = 4
    HOST = 10
    KUBERNETES = 11
    ETCD = 12
    ANSIBLE = 13
    BACKUP = 14
    PENDING_CHANGES = 20
    DEADLINE = 124
    INTERRUPTED = 130


class KopsError(Exception):
    """A failure that is shown to a person.

    ``what`` is one sentence, ``where`` a host, file:line:column or resource, ``why`` the cause as the failing
    program told it, ``hint`` what to do or type next. None of them may hold a secret.
    """

    code: ClassVar[ExitCode]

    def __init__(self, what: str, *, where: str = "", why: str = "", hint: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.why = why
        self.hint = hint

    def __str__(self) -> str:
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}: {self.why}" if self.why else head

    def to_json(self) -> dict[str, str | int]:
        """Return the error as a JSON object."""
        return {
            "error": type(self).__name__,
            "exit_code": int(self.code),
            "what": self.what,
            "where": self.where,
            "why": self.why,
            "hint": self.hint,
        }


class UnexpectedError(KopsError):
    """A bug in kops-py, or trouble with the machine it runs on (a full disk).

    Made by cli/, and where hosts are put back before the program ends.
    """

    code = ExitCode.UNEXPECTED


class ConfigError(KopsError):
    """The operator's files or arguments are wrong; nothing was contacted."""

    code = ExitCode.CONFIGURATION

    def __init__(
        self, what: str, *, where: str = "", why: str = "", hint: str = "", others: tuple[ConfigError, ...] = ()
    ) -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.others = others
        """Further errors found in the same reading, so that several are shown at once."""


class PreflightError(KopsError):
    """A finding of severity error stands in the way."""

    code = ExitCode.PREFLIGHT


class PlanChangedError(PreflightError):
    """The plan that would run is not the plan that was approved."""


class LockedError(KopsError):
    """Somebody else works on this cluster."""

    code = ExitCode.LOCKED


class HostError(KopsError):
    """A host could not do what was asked."""

    code = ExitCode.HOST


class UnreachableError(HostError):
    """No connection to the host within the time allowed."""


class HostKeyError(HostError):
    """The host's key is unknown or not the one on record."""


class AuthenticationError(HostError):
    """The host refuses the login."""


class SudoError(HostError):
    """The login works but it may not become root."""


class CommandFailedError(HostError):
    """A command ended with a code that is not allowed; ``exit_status`` is that code (None: no code was sent)."""

    def __init__(
        self, what: str, *, where: str = "", why: str = "", hint: str = "", exit_status: int | None = None
    ) -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.exit_status = exit_status


class DeadlineError(HostError):
    """A command or a wait did not end within its time limit."""


class KubeError(KopsError):
    """The Kubernetes API refused, failed, or did not answer; ``status`` is the HTTP status (0: no answer).

    ``causes`` are reason and message of each cause in the Status object's details. ``retry_after_s`` is when the
    server wants to be asked again, 0 when it did not say.
    """

    code = ExitCode.KUBERNETES

    def __init__(
        self,
        what: str,
        *,
        where: str = "",
        why: str = "",
        hint: str = "",
        status: int = 0,
        reason: str = "",
        causes: tuple[tuple[str, str], ...] = (),
        retry_after_s: float = 0.0,
    ) -> None:
        super().__init__(what, where=where, why=why, hint=hint)
        self.status = status
        self.reason = reason
        self.causes = causes
        self.retry_after_s = retry_after_s


class EtcdError(KopsError):
    """etcd is not as it must be."""

    code = ExitCode.ETCD


class NotSetUpError(EtcdError):
    """A host holds nothing of a cluster yet, or nothing any more."""


class AnsibleError(KopsError):
    """A task of a playbook failed."""

    code = ExitCode.ANSIBLE


class BackupError(KopsError):
    """A backup is not proven, or a store failed."""

    code = ExitCode.BACKUP


class NoFilesError(BackupError):
    """A host has none of the files that go with a backup."""


class StoreError(BackupError):
    """A store of backups failed; ``where`` is the store and the object in it."""


class ObjectExistsError(StoreError):
    """An object that was to be created is there already."""


class ObjectMissingError(StoreError):
    """An object that was to be read is not there."""


class DamagedError(BackupError):
    """What a store gave back is not what was stored, or not what its manifest says."""


class CancelledError(KopsError):
    """The person or the scheduler asked the program to end."""

    code = ExitCode.INTERRUPTED


class RunDeadlineError(CancelledError):
    """The time that ``--deadline`` gave to the whole run is over; the code is that of timeout(1)."""

    code = ExitCode.DEADLINE
