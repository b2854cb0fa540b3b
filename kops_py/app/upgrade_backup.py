"""A proven backup of etcd before an upgrade or a patch: the first step where backups are configured, else a warning."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kops_py.app.etcd import observe
from kops_py.app.run import Decided
from kops_py.app.session import Session
from kops_py.engine.run import StepContext
from kops_py.model.backup import Verify
from kops_py.model.backup_list import BackupCheck, CheckResult
from kops_py.model.errors import LockedError

FRESH_S = 3600.0
"""A good backup younger than this is the one an upgrade begins with."""
_OLD_S = 24 * 3600.0
_LIMIT_S = 2 * 3600.0
_POLL_S = 1.0


def begin_with_backup(opened: Session, decided: Decided) -> Decided:
    """Return what was decided with a proven backup as its first step, where a plan touches a member of etcd.

    The step stands in the plan whether or not there is a fresh backup by now: an approved plan must not become
    another one because a scheduled backup came meanwhile. Without stores there is only a warning.
    """
    from kops_py.app.etcd_backup import check_spec
    from kops_py.runbooks.etcd_backup import NO_BACKUP, OLD_BACKUP, back_up_first
    from kops_py.runbooks.preflight import mark_ignored

    members = {h.name for h in (*opened.spec.control_planes, *opened.spec.etcd_hosts)}
    if not any(step.node in members for step in decided.plan.steps):
        return decided
    if opened.spec.backup is None:
        none = mark_ignored((NO_BACKUP.found("no backups of etcd are configured"),), opened.ignored)
        return dataclasses.replace(decided, findings=(*decided.findings, *none))
    plan = back_up_first(decided.plan, FRESH_S, _LIMIT_S)
    checked = check_spec(opened.spec, max_age_s=FRESH_S)
    is_old = any(s.age_s(checked.at) > _OLD_S for s in checked.stores)
    old = mark_ignored((OLD_BACKUP.found(_problems(checked)),), opened.ignored) if is_old else ()
    return dataclasses.replace(decided, plan=plan, findings=(*decided.findings, *old))


def make_back_up(opened: Session) -> Callable[[StepContext, float], None]:
    """Return what carries out the step: takes a backup and proves it, unless a fresh one came meanwhile."""

    def back_up(ctx: StepContext, max_age_s: float) -> None:
        from kops_py.app.etcd_backup import backup_spec, check_spec, make_performer, make_work, on_record
        from kops_py.runbooks.etcd_backup import BackupArguments, plan_backup

        with _lock(opened, ctx):
            if check_spec(opened.spec, max_age_s=max_age_s).result is CheckResult.OK:
                ctx.progress("there is a fresh one")
                return
            work = make_work(opened, None, makes_one=True)
            arguments = BackupArguments(Verify.RESTORE, can_read=bool(work.identities) or not work.recipients)
            with on_record(opened, work):
                decision = plan_backup(opened.spec, backup_spec(opened.spec), observe(opened), arguments)
            performer = make_performer(opened, work)
            try:
                for step in decision.plan.steps:
                    ctx.progress(step.title)
                    deadline_at = min(ctx.deadline_at, time.monotonic() + step.timeout_s)
                    # the console and the reports know the outer step only
                    own = dataclasses.replace(step, id=ctx.step.id)
                    inner = dataclasses.replace(ctx, step=own, deadline_at=deadline_at)
                    performer.apply(inner)
                    performer.verify(inner)
            finally:
                performer.close()

    return back_up


@contextmanager
def _lock(opened: Session, ctx: StepContext) -> Iterator[None]:
    """Hold the lock of this cluster's backups; waits for a backup that is being made. Raises DeadlineError."""
    from kops_py.engine.lock import FileLock

    lock = FileLock(opened.settings.run_dir / "locks", f"{opened.spec.name}.etcd-backup")
    while True:
        try:
            lock.acquire(run_id=opened.work_dir.name, command=opened.settings.command)
            break
        except LockedError as error:
            ctx.progress(f"another backup is being made: {error.why}", waiting=True)
            ctx.remaining_s()
            ctx.cancel.wait(_POLL_S)
    try:
        yield
    finally:
        lock.release()


def _problems(check: BackupCheck) -> str:
    return "; ".join(f"{s.store}: {s.problem}" for s in check.stores if s.problem)
