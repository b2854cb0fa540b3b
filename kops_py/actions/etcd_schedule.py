"""Writes the systemd timer of backups, on this machine or on a host, and takes it away again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kops_py.connect.base import Host
from kops_py.connect.local_host import LocalHost
from kops_py.engine.run import StepContext
from kops_py.model.actions import InstallSchedule, RemoveSchedule
from kops_py.model.errors import CommandFailedError, HostError, KopsError
from kops_py.tools.etcd_schedule import UNIT_FOLDER, is_ours

_S = 60.0
_MAKE = '[ -e "$2" ] || [ ! -d "$(dirname "$2")" ] || install -d -m 0700 -o "$1" -g "$(id -gn "$1")" -- "$2"'


@dataclass(frozen=True, slots=True)
class Place:
    """Where a timer lives: a host over SSH, where commands need sudo, or this machine, where this user must be root."""

    host: Host
    sudo: bool

    def run(self, *argv: str, check: bool = True, timeout_s: float = _S) -> str:
        """Run a command as root and return what it printed; raises HostError."""
        return self.host.run(argv, sudo=self.sudo, timeout_s=timeout_s, check=check).out

    def ask(self, *argv: str) -> str:
        """Run a command as whoever is logged in and return what it printed; raises HostError."""
        return self.host.run(argv, timeout_s=_S).out.strip()

    def unit(self, name: str) -> str:
        """Return the text of a unit file; empty when there is none."""
        try:
            return self.host.read_file(f"{UNIT_FOLDER}/{name}").decode("utf-8", "replace")
        except CommandFailedError:
            return ""


def this_machine() -> Place:
    """Return the machine kops-py runs on."""
    return Place(LocalHost("this machine"), sudo=False)


class SchedulePerformer:
    """Carries out the steps of ``etcd schedule``.

    ``files`` are the unit files by name. The folders of ``own`` are made for ``user`` when they are not there (what
    is above them must be: it may be a mount); ``handed_over`` is given to the user with all that is in it.
    """

    def __init__(
        self, place: Place, files: Mapping[str, str], *, user: str = "", own: Sequence[str] = (), handed_over: str = ""
    ) -> None:
        self._place = place
        self._files = files
        self._user = user
        self._own = own
        self._handed_over = handed_over

    def check(self, ctx: StepContext) -> str | None:
        """The plan was made from what is there."""
        del ctx
        return None

    def apply(self, ctx: StepContext) -> None:
        """Write and start, or stop and remove; raises HostError."""
        match ctx.step.action:
            case InstallSchedule(unit=unit):
                self._give_folders()
                for name, text in self._files.items():
                    self._refuse_foreign(name)
                    self._place.host.write_file(f"{UNIT_FOLDER}/{name}", text.encode(), mode=0o644)
                self._place.run("systemctl", "daemon-reload")
                self._place.run("systemctl", "enable", f"{unit}.timer")
                self._place.run("systemctl", "restart", f"{unit}.timer")
            case RemoveSchedule(unit=unit):
                for name in (f"{unit}.timer", f"{unit}.service"):
                    self._refuse_foreign(name)
                self._place.run("systemctl", "disable", "--now", f"{unit}.timer", check=False)
                # or a timer of this name that is installed next year would begin with making up for a year
                self._place.run("systemctl", "clean", "--what=state", f"{unit}.timer", check=False)
                self._place.run("systemctl", "reset-failed", f"{unit}.service", check=False)
                self._place.run("rm", "-f", "--", *(f"{UNIT_FOLDER}/{unit}.{end}" for end in ("timer", "service")))
                self._place.run("systemctl", "daemon-reload")
            case _:
                raise TypeError(f"no performer for {type(ctx.step.action).__name__}")

    def apply_together(self, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
        """Nothing is done this way."""
        raise TypeError(f"no step of {len(contexts)} is done together")

    def verify(self, ctx: StepContext) -> None:
        """Raise HostError unless the timer waits for its next time, or is gone."""
        action = ctx.step.action
        assert isinstance(action, InstallSchedule | RemoveSchedule)  # noqa: S101 - there are no others
        state = self._place.run("systemctl", "is-active", f"{action.unit}.timer", check=False).strip()
        if (state == "active") is isinstance(action, RemoveSchedule):
            raise HostError(
                f"the timer is {state}", where=self._place.host.name, hint=f"systemctl status {action.unit}.timer"
            )

    def _give_folders(self) -> None:
        for folder in self._own:
            self._place.run("sh", "-c", _MAKE, "sh", self._user, folder)
        if self._handed_over:
            self._place.run("chown", "-R", "-h", f"{self._user}:", "--", self._handed_over)

    def _refuse_foreign(self, name: str) -> None:
        text = self._place.unit(name)
        if text and not is_ours(text):
            raise HostError(
                f"{UNIT_FOLDER}/{name} is not of kops-py's making and is left alone",
                where=self._place.host.name,
                hint="move it away, then run the same command again",
            )
