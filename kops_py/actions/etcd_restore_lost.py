"""Restoring etcd, what is lost by it: names in an old database that was kept, and what became of them.

Only names are told, of Secrets as well; values are never looked at. The old database comes to a file of this machine
that has no name, and so is gone whenever this program is.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from kops_py.actions.deps import Deps
from kops_py.actions.etcd_restore import OpenSnapshot
from kops_py.connect.base import Host
from kops_py.engine.run import StepContext
from kops_py.model.errors import CancelledError, KopsError
from kops_py.model.etcd_restore import CheckRestored
from kops_py.model.finding import few
from kops_py.tools import etcd_restore as tool
from kops_py.tools.bolt import NotADatabaseError, read_database, revisions_below
from kops_py.tools.file_bytes import FileBytes

MOST_BYTES = 512 * 1024**2
"""What is larger is not compared: copying and reading it would take minutes."""
_ASK_S = 30.0
_COPY_S = 90.0
_SHARE = 0.75
"""Of the step's time: what is left is for reading."""
_KINDS_SHOWN = 20
_ROOT = "/registry/"
_MADE_ANEW = frozenset(
    {"events", "leases", "masterleases", "peerserverleases", "ranges", "endpoints", "endpointslices"}
)
"""What Kubernetes makes again by itself."""
_WRITTEN_ALWAYS = ("nodes", "pods")
"""What kubelets write anew all the time: that they changed says nothing."""
_OWN_NAMES = {"minions": "nodes", "services/specs": "services", "services/endpoints": "endpoints"}


def lost_objects(
    deps: Deps, action: CheckRestored, ctx: StepContext, open_snapshot: OpenSnapshot, folder: Path
) -> Iterator[str]:
    """Tell by kind how the snapshot differs from the largest kept database; a failure is told as well."""
    if not action.holders:
        return
    sizes = _kept_sizes(deps, action)
    if not sizes:
        yield "no old data was kept that could be compared: what was written after the snapshot is not known"
        return
    node = max(sizes, key=lambda n: sizes[n])  # an etcd that was started on an empty disk left a small one
    if sizes[node] > MOST_BYTES:
        yield f"the old data kept on {node} ({sizes[node] / 1e6:.0f} MB) is too large to be compared with the snapshot"
        return
    try:
        yield from _compared(deps, action, ctx, node, open_snapshot, folder)
    except CancelledError:
        raise
    except (KopsError, OSError, NotADatabaseError) as error:
        yield f"the old data kept on {node} could not be compared with the snapshot: {error}"


def _kept_sizes(deps: Deps, action: CheckRestored) -> dict[str, int]:
    """Return the size of the kept database by host, of those that have one and answer."""

    def size(host: Host) -> int:
        argv = ("sh", "-c", tool.kept_size_script(action.restore))
        answer = host.run(argv, sudo=True, check=False, timeout_s=_ASK_S, cancel=deps.cancel).out.strip()
        return int(answer) if answer.isdigit() else 0

    answers: Mapping[str, int | KopsError] = deps.fleet.map(list(action.holders), size, cancel=deps.cancel)
    return {name: found for name, found in answers.items() if isinstance(found, int) and found}


def _compared(
    deps: Deps, action: CheckRestored, ctx: StepContext, node: str, open_snapshot: OpenSnapshot, folder: Path
) -> Iterator[str]:
    ctx.progress(f"comparing the old data kept on {node} with the snapshot")
    with open_snapshot() as snapshot, tempfile.TemporaryFile(dir=folder) as old:

        def take(piece: bytes) -> None:
            old.write(piece)

        deps.fleet.host(node).run(
            ("sh", "-c", tool.send_kept_script(action.restore)),
            sudo=True,
            timeout_s=min(_COPY_S, ctx.remaining_s() * _SHARE),
            cancel=deps.cancel,
            stdout_to=take,
        )
        old.flush()
        difference = _difference(old, snapshot)
    if difference is not None:
        yield from lost_sentences(difference, node)


@dataclass(frozen=True, slots=True)
class Difference:
    """Names of objects, as etcd has them, that a restore leaves otherwise than they were in the old data."""

    lost: Iterable[str] = ()
    """Only in the old data."""
    set_back: Iterable[str] = ()
    """In both, and changed after the snapshot was taken."""
    back: Iterable[str] = ()
    """Only in the snapshot: deleted after it was taken."""


def _difference(old: BinaryIO, snapshot: BinaryIO) -> Difference | None:
    """Compare, None when the old data is no newer: then what differs was restored since."""
    before, restored = FileBytes(old), FileBytes(snapshot)
    revision = read_database(restored).revision
    if read_database(before).revision <= revision:
        return None
    now, then = revisions_below(restored, [_ROOT]), revisions_below(before, [_ROOT])
    cut = len(_ROOT)
    return Difference(
        lost=[key[cut:] for key in then.keys() - now.keys()],
        set_back=[key[cut:] for key in then.keys() & now.keys() if then[key] > revision],
        back=[key[cut:] for key in now.keys() - then.keys()],
    )


def lost_sentences(found: Difference, node: str) -> Iterator[str]:
    """Say by kind how many objects are lost, set back or there again, and the first of them by name."""
    lost, set_back, back = (_by_kind(names) for names in (found.lost, found.set_back, found.back))
    if not lost:
        yield f"the old data kept on {node} has no object that the snapshot lacks"
    yield from _told(lost, f"lost, in the old data kept on {node} only", "lost as well")
    for kind in _WRITTEN_ALWAYS:
        set_back.pop(kind, None)
    yield from _told(set_back, f"set back, changed later in the old data kept on {node}", "set back as well")
    yield from _told(back, f"there again, deleted in the old data kept on {node}", "there again as well")


def _by_kind(names: Iterable[str]) -> dict[str, list[str]]:
    kinds: dict[str, list[str]] = {}
    for name in sorted(names):
        kind, own = kind_and_name(name)
        if kind not in _MADE_ANEW:
            kinds.setdefault(kind, []).append(own)
    return kinds


def _told(kinds: Mapping[str, list[str]], what: str, more: str) -> Iterator[str]:
    for kind, own_names in list(kinds.items())[:_KINDS_SHOWN]:
        yield f"{what}: {len(own_names)} {kind}: {few(own_names, 5)}"
    if len(kinds) > _KINDS_SHOWN:
        rest = list(kinds)[_KINDS_SHOWN:]
        yield f"{more}: objects of {len(rest)} more kinds: {few(rest, 10)}"


def kind_and_name(name: str) -> tuple[str, str]:
    """Return kind and name of a key below /registry/: ``configmaps`` and ``default/a``, ``widgets.example.com`` ...

    Kinds of groups that are no part of Kubernetes have their group before them.
    """
    first, _, rest = name.partition("/")
    if "." in first or first == "services":
        second, _, own = rest.partition("/")
        return (_OWN_NAMES.get(f"{first}/{second}") or f"{second}.{first}"), own
    return _OWN_NAMES.get(first, first), rest
