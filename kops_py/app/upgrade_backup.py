"""A proven backup of etcd before an upgrade: its first step where backups are configured, a warning where not."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from kops_py.app.etcd import observe
from kops_py.app.session import Session
from kops_py.engine.run import StepContext
from kops_py.model.backup import Verify
from kops_py.model.backup_list import BackupCheck, CheckResult
from kops_py.model.errors import LockedError
from kops_py.model.finding import Finding
from kops_py.model.plan import Plan

FRESH_S = 3600.0
"""A good backup younger than this is the one an upgrade begins with."""
_OLD_S = 24 * 3600.0
_LIMIT_S = 2 * 3600.0
_POLL_S = 1.0


def with_backup(opened: Session, plan: Plan) -> tuple[Plan, tuple[Finding, ...]]:
    """Return a plan that begins with a proven backup where there is no fresh one, and what is to be said about it."""
    from kops_py.app.etcd_backup import check_spec
    from kops_py.runbooks.etcd_backup import NO_BACKUP, OLD_BACKUP, back_up_first

    if not plan.has_changes:
        return plan, ()
    if opened.spec.backup is None:
        return plan, (NO_BACKUP.found("no backups of etcd are configured"),)
    fresh = check_spec(opened.spec, max_age_s=FRESH_S)
    if fresh.result is CheckResult.OK:
        return plan, ()
    found = (OLD_BACKUP.found(_problems(fresh)),) if _is_old(fresh) else ()
    return back_up_first(plan, FRESH_S, _LIMIT_S), found


def make_back_up(opened: Session) -> Callable[[StepContext, float], None]:
    """Return what carries out the step: takes a backup and proves it, unless a fresh one came meanwhile."""

    def back_up(ctx: StepContext, max_age_s: float) -> None:
        from kops_py.app.etcd_backup import backup_spec, check_spec, make_performer, make_work
        from kops_py.runbooks.etcd_backup import BackupArguments, plan_backup

        with _lock(opened, ctx):
            if check_spec(opened.spec, max_age_s=max_age_s).result is CheckResult.OK:
                ctx.progress("there is a fresh one")
                return
            work = make_work(opened, None, makes_one=True)
            arguments = BackupArguments(Verify.RESTORE, can_read=bool(work.identities) or not work.recipients)
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


def _is_old(check: BackupCheck) -> bool:
    return any(s.age_s(check.at) > _OLD_S for s in check.stores)


def _problems(check: BackupCheck) -> str:
    return "; ".join(f"{s.store}: {s.problem}" for s in check.stores if s.problem)
