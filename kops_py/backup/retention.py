"""Which backups are kept and which go: a pure function, so that a preview is the execution."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from kops_py.backup.catalogue import Entry, State
from kops_py.model.backup import RetentionPolicy

LEFTOVER_AGE = timedelta(days=7)
"""Failed and broken-off backups are kept so long at least, for whoever looks into what happened."""

_PERIODS: tuple[tuple[str, str, Callable[[datetime], str]], ...] = (
    ("hourly", "hour", lambda at: f"{at:%Y-%m-%d %H}:00"),
    ("daily", "day", lambda at: f"{at:%Y-%m-%d}"),
    ("weekly", "week", lambda at: "{}-W{:02}".format(*at.isocalendar()[:2])),
    ("monthly", "month", lambda at: f"{at:%Y-%m}"),
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of one backup, and why."""

    entry: Entry
    keep: bool
    reason: str


def decide(entries: Iterable[Entry], policy: RetentionPolicy, now: datetime) -> tuple[Decision, ...]:
    """Return a decision for every backup of one cluster in one store, the newest first.

    Only good backups count for ``keep_last`` and the periods. A backup that is stored or damaged but not good never
    goes and never makes another one go. Leftovers of failed and broken-off ones go when they are old enough and a
    newer good backup is there. The newest good backup always stays, whatever the policy says.
    """
    ordered = sorted(entries, key=lambda e: e.id, reverse=True)
    good = [e for e in ordered if e.is_good]
    reasons = _reasons(good, policy)
    return tuple(_decide(entry, good, reasons, policy, now) for entry in ordered)


def _reasons(good: list[Entry], policy: RetentionPolicy) -> dict[str, str]:
    reasons: dict[str, str] = {}
    for entry in good[:1]:
        reasons[entry.id] = "the newest good backup"
    for number, entry in enumerate(good[: policy.keep_last], 1):
        reasons.setdefault(entry.id, f"number {number} of the last {policy.keep_last}")
    for field, word, period in _PERIODS:
        wanted, seen = getattr(policy, field), set[str]()
        for entry in good:
            name = period(entry.at)
            if name in seen:
                continue
            if len(seen) >= wanted:
                break
            seen.add(name)
            reasons.setdefault(entry.id, f"the newest of {word} {name}")
    return reasons


def _decide(
    entry: Entry, good: list[Entry], reasons: dict[str, str], policy: RetentionPolicy, now: datetime
) -> Decision:
    age = now - entry.at
    if entry.foreign:
        return Decision(entry, True, f"holds what kops-py did not make: {entry.foreign[0]}")
    if entry.state is State.DELETING:
        return Decision(entry, False, "its deletion was begun")
    if entry.keep is not None:
        return Decision(
            entry, True, f"keep mark of {entry.keep.by}" + (f": {entry.keep.why}" if entry.keep.why else "")
        )
    if entry.state in (State.FAILED, State.BROKEN_OFF):
        return _leftover(entry, good, age, policy)
    if not entry.is_good:
        return Decision(entry, True, _NOT_GOOD[entry.state])
    if entry.id in reasons:
        return Decision(entry, True, reasons[entry.id])
    if age < timedelta(seconds=policy.minimum_age_s):
        return Decision(entry, True, "younger than the minimum age")
    return Decision(entry, False, "older than what is to be kept")


_NOT_GOOD = {
    State.BEGUN: "being made",
    State.STORED: "not proven; it counts for nothing until it is: kops-py etcd verify",
    State.UNSIGNED: "not signed by a key that is trusted here; for a person to look at",
    State.DAMAGED: "damaged; for a person to look at, and to delete by its id",
}


def _leftover(entry: Entry, good: list[Entry], age: timedelta, policy: RetentionPolicy) -> Decision:
    if age < max(LEFTOVER_AGE, timedelta(seconds=policy.minimum_age_s)):
        return Decision(entry, True, f"{entry.state}; its leftovers are kept for {LEFTOVER_AGE.days} days")
    if not good or good[0].id < entry.id:
        return Decision(entry, True, f"{entry.state}; there is no good backup after it")
    return Decision(entry, False, f"leftovers of a {entry.state} backup")
