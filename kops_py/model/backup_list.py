"""Backups as they are shown and checked, as frozen data."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from typing import Any

_BAD = frozenset({"failed", "broken-off", "damaged", "unsigned"})


@dataclass(frozen=True, slots=True)
class BackupLine:
    """One backup in one store; sizes in bytes, what is not known yet is empty or 0."""

    id: str
    store: str
    at: datetime
    state: str
    why: str
    size_bytes: int = 0
    revision: int = 0
    keys: int = 0
    etcd_version: str = ""
    kubernetes_version: str = ""
    member: str = ""
    encrypted: bool = True
    kept: bool = False
    proven_at: datetime | None = None
    proven_by: str = ""
    cluster_uid: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it was restored once, and nothing speaks against it."""
        return self.state == "good"

    def to_json(self) -> dict[str, Any]:
        """Return the line as a JSON object; times in ISO 8601, UTC."""
        body = dataclasses.asdict(self)
        for name in ("at", "proven_at"):
            moment = body[name]
            body[name] = moment.astimezone(UTC).isoformat().replace("+00:00", "Z") if moment else None
        return body


class CheckResult(IntEnum):
    """How it stands with a cluster's backups; monitoring plugins use these words."""

    OK = 0
    CRITICAL = 2


@dataclass(frozen=True, slots=True)
class StoreCheck:
    """One store: its newest good backup and the newest attempt; ``problem`` says what is wrong, empty when nothing."""

    store: str
    problem: str
    newest_good: BackupLine | None = None
    newest: BackupLine | None = None
    good: int = 0

    def age_s(self, now: datetime) -> float:
        """Return the age of the newest good backup in seconds; infinite when there is none."""
        return (now - self.newest_good.at).total_seconds() if self.newest_good else float("inf")


@dataclass(frozen=True, slots=True)
class BackupCheck:
    """What ``etcd check`` found."""

    cluster: str
    at: datetime
    max_age_s: float
    stores: tuple[StoreCheck, ...]

    @property
    def result(self) -> CheckResult:
        """Return the worst of the stores; no store at all is the worst there is."""
        return CheckResult.OK if self.stores and not any(s.problem for s in self.stores) else CheckResult.CRITICAL

    @property
    def line(self) -> str:
        """Return one line for monitoring."""
        if self.result is not CheckResult.OK:
            what = "; ".join(f"{s.store}: {s.problem}" for s in self.stores if s.problem) or "no store is configured"
            return f"CRITICAL: etcd backups of {self.cluster}: {what}"
        parts = [f"{s.store}: newest good {_ago(s.age_s(self.at))} old, {s.good} good" for s in self.stores]
        return f"OK: etcd backups of {self.cluster}: {'; '.join(parts)}"

    def to_json(self) -> dict[str, Any]:
        """Return the check as a JSON object."""
        return {
            "cluster": self.cluster,
            "result": self.result.name,
            "line": self.line,
            "max_age_s": self.max_age_s,
            "stores": [
                {
                    "store": s.store,
                    "problem": s.problem,
                    "good": s.good,
                    "newest_good": s.newest_good.to_json() if s.newest_good else None,
                    "newest": s.newest.to_json() if s.newest else None,
                }
                for s in self.stores
            ],
        }


def check_store(store: str, lines: tuple[BackupLine, ...], *, now: datetime, max_age_s: float) -> StoreCheck:
    """Judge one store by its backups: the newest good one young enough, the newest attempt not failed. Pure."""
    ordered = sorted(lines, key=lambda line: line.id, reverse=True)
    good = [line for line in ordered if line.is_good]
    newest = next((line for line in ordered if line.state not in ("begun", "deleting")), None)
    problem = ""
    if not good:
        problem = "there is no good backup"
    elif now - good[0].at > timedelta(seconds=max_age_s):
        problem = f"the newest good backup is {_ago((now - good[0].at).total_seconds())} old, {_ago(max_age_s)} allowed"
    elif good[0].at > now + timedelta(minutes=5):
        problem = f"the newest good backup is of the future ({good[0].id}): a clock is wrong"
    if newest is not None and newest.state in _BAD:
        last = f"the last attempt ({newest.id}) is {newest.state}: {newest.why}"
        problem = f"{problem}; {last}" if problem else last
    return StoreCheck(store, problem, good[0] if good else None, newest, len(good))


def textfile(check: BackupCheck) -> str:
    """Return the check as a file for Prometheus's node_exporter (textfile collector)."""
    cluster = _label(check.cluster)
    rows: list[tuple[str, str, str, float]] = []
    for store in check.stores:
        labels = f'cluster="{cluster}",store="{_label(store.store)}"'
        good, newest = store.newest_good, store.newest
        rows += [
            ("good", "Good backups in the store.", labels, store.good),
            ("last_good_timestamp_seconds", "When the newest good backup was begun; 0: there is none.", labels,
             good.at.timestamp() if good else 0),
            ("last_good_size_bytes", "What the newest good backup takes up.", labels, good.size_bytes if good else 0),
            ("last_good_revision", "Revision of etcd in the newest good backup.", labels, good.revision if good else 0),
            ("last_attempt_timestamp_seconds", "When the last backup was begun; 0: never.", labels,
             newest.at.timestamp() if newest else 0),
            ("last_attempt_failed", "Whether the last backup failed.", labels,
             float(newest is None or newest.state in _BAD)),
            ("ok", "Whether all is as etcd check wants it.", labels, float(not store.problem)),
        ]  # fmt: skip
    rows.append(("check_timestamp_seconds", "When this was written.", f'cluster="{cluster}"', check.at.timestamp()))
    text: list[str] = []
    for name in dict.fromkeys(row[0] for row in rows):
        full = f"kops_py_etcd_backup_{name}"
        own = [row for row in rows if row[0] == name]
        text += [f"# HELP {full} {own[0][1]}", f"# TYPE {full} gauge"]
        text += [f"{full}{{{labels}}} {value:.15g}" for _, _, labels, value in own]
    return "\n".join(text) + "\n"


def _ago(seconds: float) -> str:
    minutes = int(seconds // 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60:02} min" if minutes < 48 * 60 else f"{minutes // 1440} days"


def _label(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
