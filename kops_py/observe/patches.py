"""Asks hosts for their pending updates, all side by side; changes nothing on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kops_py.connect.base import Cancel, Fleet, Host
from kops_py.model.errors import CommandFailedError, KopsError
from kops_py.model.facts import HostFacts
from kops_py.model.patches import PatchFacts, Selection
from kops_py.tools.packages import family_of
from kops_py.tools.patches import look_script, parse_look

_TIMEOUT_S = 180.0


def observe_patches(
    fleet: Fleet,
    hosts: Mapping[str, HostFacts],
    selection: Selection,
    names: Sequence[str] = (),
    *,
    cancel: Cancel | None = None,
) -> dict[str, PatchFacts]:
    """Return the updates of these hosts; one that cannot be asked has its ``problem`` set. Raises CancelledError."""

    def work(host: Host) -> PatchFacts:
        facts = hosts[host.name]
        try:
            script = look_script(family_of(facts.os_id, facts.os_like), selection, names)
        except ValueError as error:
            raise CommandFailedError(str(error), where=host.name, hint="kops-py knows apt and dnf") from error
        answer = host.run(("sh", "-c", script), sudo=True, check=False, timeout_s=_TIMEOUT_S, cancel=cancel)
        try:
            updates, reboot = parse_look(answer.out, selection)
        except ValueError as error:
            why = "\n".join(answer.err.strip().splitlines()[-3:])[:400]
            hint = "are the package repositories reachable from the host? apt-get update shows it"
            raise CommandFailedError(str(error), where=host.name, why=why, hint=hint) from error
        return PatchFacts(updates, reboot)

    answers = fleet.map(sorted(hosts), work, cancel=cancel)
    if cancel is not None:
        cancel.check()
    return {n: PatchFacts(problem=a) if isinstance(a, KopsError) else a for n, a in answers.items()}
