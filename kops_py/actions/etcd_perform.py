"""Carries out the steps of backups of etcd; this is the engine's Performer for them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from kops_py.actions.etcd_backup import LOOKING, Taken, Work, record_failure, take
from kops_py.actions.etcd_proving import prove_taken
from kops_py.backup.catalogue import Catalogue
from kops_py.backup.retention import decide
from kops_py.connect.base import Host
from kops_py.engine.run import StepContext
from kops_py.model.actions import DeleteBackup, ProveBackup, PruneBackups, TakeBackup
from kops_py.model.backup import Verify
from kops_py.model.errors import BackupError, EtcdError, KopsError, StoreError
from kops_py.model.etcd import EtcdFacts, choose_source, newest_fit_revision, why_unfit
from kops_py.model.event import Note
from kops_py.model.status import EtcdMember

_LEFT_S = 24 * 3600.0
"""No upload takes so long."""


class BackupPerformer:
    """Takes one backup, proves it, and removes what the retention lets go; ``facts`` are etcd's of this moment.

    ``prunes``: the retention is the last step. A store that failed ends the run after it then, not before: the others
    would fill up for as long as that store is down.
    """

    def __init__(self, work: Work, observe: Callable[[], EtcdFacts], *, prunes: bool = False) -> None:
        self._work = work
        self._prunes = prunes
        self._observe = observe
        self._taken: Taken | None = None
        self._facts = EtcdFacts()

    def check(self, ctx: StepContext) -> str | None:
        """Return why a step is true already: a backup never is; one that another run deleted is."""
        action = ctx.step.action
        if isinstance(action, DeleteBackup):
            return why_kept(self._work, _catalogue(self._work, action.store), action.id)
        return None

    def apply(self, ctx: StepContext) -> None:
        """Carry out one step; raises KopsError."""
        self._work.tell = ctx.progress
        self._work.note = lambda message: ctx.emit(Note(message=message))
        match ctx.step.action:
            case TakeBackup() as action:
                self._take(action, ctx)
            case ProveBackup() as action:
                self._prove(action)
            case PruneBackups():
                self._prune()
            case DeleteBackup() as action:
                _catalogue(self._work, action.store).delete(action.id, action.why)
            case _:
                raise TypeError(f"no performer for {type(ctx.step.action).__name__}")

    def apply_together(self, contexts: Sequence[StepContext]) -> Mapping[str, KopsError | None]:
        """Nothing of a backup is done this way."""
        raise TypeError(f"no step of {len(contexts)} is done together")

    def verify(self, ctx: StepContext) -> None:
        """Raise BackupError when a store lacks the backup: at the end, so that the others have all of it done."""
        match ctx.step.action:
            case PruneBackups():
                self.raise_for_stores()
            case ProveBackup() | TakeBackup(verify="none") if not self._prunes:
                self.raise_for_stores()
            case _:
                return

    def raise_for_stores(self) -> None:
        """Raise BackupError when a store failed, or has no good copy, while others took the backup."""
        failed = self._taken.failed if self._taken else {}
        if failed:
            raise BackupError(
                "not every store has the backup",
                where=", ".join(failed),
                why="; ".join(str(e) for e in failed.values()),
                hint="the other stores have it; mend the store, then run the same command again",
            )

    def close(self) -> None:
        """Give back what a proof that never came would have needed."""
        if self._taken is not None:
            self._taken.close()

    def _take(self, action: TakeBackup, ctx: StepContext) -> None:
        work = self._work
        try:
            member = self._source(action.member)
            left_s = ctx.remaining_s()
        except KopsError as error:
            record_failure(work, LOOKING, error)
            raise
        can_read = bool(work.identities) or not work.recipients
        keep_plain = action.verify == Verify.RESTORE and not can_read
        self._taken = take(work, self._facts, member, action.bundles, keep_plain=keep_plain, timeout_s=left_s)
        work.tell(f"backup {self._taken.manifest.id} is stored")

    def _source(self, planned: str) -> EtcdMember:
        """Return the member that gives the snapshot, as etcd is now: never one that lags behind. Raises EtcdError."""
        self._facts = first = self._observe()
        member = _planned(first, planned)
        reached = newest_fit_revision(first)
        if member.revision >= reached:
            return member
        # Revisions are read one after the other while others write: whoever has by now what the newest had then does
        # not lag.
        self._facts = second = self._observe()
        _planned(second, planned)
        chosen = choose_source(second, planned, reached)
        if chosen is None:
            raise EtcdError(
                "the member the backup was to come from is behind, and no other is fit",
                where=planned,
                why=f"the newest revision was {reached} a moment ago, and there is no leader to take it from",
                hint="kops-py etcd status shows them; run the same command again when etcd has a leader",
            )
        if chosen.name != planned:
            self._work.tell(f"{planned} is behind the revision {reached}: the snapshot comes from {chosen.name}")
        return chosen

    def _prove(self, action: ProveBackup) -> None:
        taken = self._taken
        if taken is None:
            raise BackupError("there is no backup to prove", hint="run the same command again")
        try:
            on, hosts = proof_hosts(self._work, self._facts, taken.manifest.source.member, action.verify_on)
            prove_taken(self._work, taken, Verify(action.verify), on, hosts, new_cluster=action.new_cluster)
        finally:
            taken.close()
        self._work.tell(f"backup {taken.manifest.id} is proven")

    def _prune(self) -> None:
        """Let the retention work in the stores that did not fail; raises what they did first, then its own errors."""
        try:
            prune(self._work, without=self._taken.failed if self._taken else ())
        except StoreError:
            self.raise_for_stores()
            raise


def _planned(facts: EtcdFacts, name: str) -> EtcdMember:
    """Return the member of a plan; raises EtcdError when it is not fit any more."""
    member = next((m for m in facts.members if m.name == name), None)
    why = why_unfit(member) if member else "is gone"
    if member is None or why:
        raise EtcdError(
            "the member the backup was to come from is not fit any more",
            where=name,
            why=f"it {why}",
            hint="run the same command again: it chooses another",
        )
    return member


def proof_hosts(work: Work, facts: EtcdFacts, member: str, verify_on: str) -> tuple[Host | None, tuple[Host, ...]]:
    """Return the host a proof is made on (None: here), and those whose programs may be fetched for it.

    Raises EtcdError when it is to be made on a member and none can be reached.
    """
    running = [n for n, a in facts.accesses.items() if a.has_member]
    own = next((m.host for m in facts.members if m.name == member), "")
    ordered = sorted(running, key=lambda name: name != own)
    hosts = tuple(work.fleet.host(name) for name in ordered)
    if verify_on != "member":
        return None, hosts
    if not hosts:
        raise EtcdError("no host with a member can be reached to prove the backup on", hint="use --verify-on here")
    return hosts[0], hosts


def why_kept(work: Work, catalogue: Catalogue, backup_id: str) -> str | None:
    """Return why a backup that was to go stays after all, or is gone: another run may have been faster."""
    entries = catalogue.entries()
    if all(e.id != backup_id for e in entries):
        return "it is gone"
    decisions = decide(entries, work.spec.retention, work.clock())
    return next((f"it is kept: {d.reason}" for d in decisions if d.entry.id == backup_id and d.keep), None)


def prune(work: Work, *, without: Collection[str] = ()) -> tuple[str, ...]:
    """Remove in every store what the retention lets go, but in those named; returns the ids.

    Raises StoreError after trying all stores.
    """
    gone: list[str] = []
    failed: list[StoreError] = []
    for catalogue in work.catalogues:
        if catalogue.store.name in without:
            continue
        try:
            gone += _prune_store(work, catalogue)
            for path in catalogue.clean(older_than_s=_LEFT_S):
                work.note(f"{catalogue.store.where}: removed {path}, which a killed upload left")
        except StoreError as error:
            failed.append(error)
    if failed:
        raise failed[0]
    return tuple(dict.fromkeys(gone))


def _prune_store(work: Work, catalogue: Catalogue) -> list[str]:
    """Remove what the retention lets go in one store, with a look before each deletion; raises StoreError."""
    gone: list[str] = []
    for decision in decide(catalogue.entries(), work.spec.retention, work.clock()):
        work.cancel.check()
        if decision.keep:
            continue
        backup_id = decision.entry.id
        kept = why_kept(work, catalogue, backup_id)
        work.tell(f"{catalogue.store.name}: {backup_id}: {kept or decision.reason}")
        if kept is not None:
            continue
        try:
            catalogue.delete(backup_id, decision.reason)
        except StoreError:
            raise
        except BackupError as error:  # somebody has set a keep mark since the look
            work.tell(str(error))
        else:
            gone.append(backup_id)
    return gone


def _catalogue(work: Work, store: str) -> Catalogue:
    return next(c for c in work.catalogues if c.store.name == store)
