"""etcd's members, and backups of them, as text."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from kops_py.model.backup_list import BackupLine
from kops_py.model.etcd import EtcdFacts
from kops_py.model.finding import Finding
from kops_py.report.plain import clean
from kops_py.report.status import table
from kops_py.report.text import findings_text


def etcd_status_text(facts: EtcdFacts, findings: Sequence[Finding]) -> str:
    """Return members with their sizes, and what is wrong with them."""
    healthy = sum(m.healthy for m in facts.members)
    head = (
        f"etcd {facts.cluster_id or '?'}: {healthy} of {len(facts.members)} members healthy, "
        f"revision {facts.revision}" + ("" if facts.has_quorum else ", NO QUORUM")
    )
    rows = [
        (
            m.name or "(never started)",
            "healthy" if m.healthy else "UNHEALTHY",
            "leader" if m.is_leader else "learner" if m.is_learner else "follower",
            m.version,
            _mib(m.size_bytes),
            _mib(m.used_bytes),
            f"{_mib(m.quota_bytes)}" if m.quota_bytes else "?",
            str(m.revision),
            ",".join(m.alarms) or "none",
        )
        for m in facts.members
    ]
    parts = [
        head,
        "",
        table(("MEMBER", "STATE", "ROLE", "VERSION", "SIZE", "IN USE", "QUOTA", "REVISION", "ALARMS"), rows),
        *(f"{host} was not asked: {why}" for host, why in facts.problems.items()),
    ]
    if findings:
        parts += ["", findings_text(tuple(findings))]
    return clean("\n".join(parts))


def etcd_members_text(facts: EtcdFacts) -> str:
    """Return the members as etcd lists them, with the host of each."""
    rows = [
        (f"{m.member_id:x}", m.name or "(never started)", m.host or "NONE", ",".join(m.peer_urls), m.endpoint)
        for m in facts.members
    ]
    return clean(table(("ID", "MEMBER", "HOST", "PEERS REACH IT AT", "CLIENTS AT"), rows))


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.1f} MiB"


def backups_text(lines: Sequence[BackupLine], problems: Sequence[str], *, now: datetime | None = None) -> str:
    """Return a table of backups, and which stores could not be read."""
    moment = now or datetime.now(UTC)
    parts: list[str] = []
    if lines:
        rows = [
            (
                line.id,
                line.store,
                line.state.upper() if line.state not in ("good", "begun") else line.state,
                _age(moment, line.at),
                _mib(line.size_bytes),
                str(line.revision or "?"),
                str(line.keys or "?"),
                line.etcd_version or "?",
                ("keep  " if line.kept else "") + ("" if line.is_good else line.why),
            )
            for line in lines
        ]
        parts.append(table(("BACKUP", "STORE", "STATE", "AGE", "STORED", "REVISION", "KEYS", "ETCD", ""), rows))
    elif not problems:
        parts.append("no backups yet")
    parts += [f"! {problem}" for problem in problems]
    return clean("\n".join(parts))


def _age(now: datetime, at: datetime) -> str:
    minutes = int((now - at).total_seconds() // 60)
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 48 * 60 else f"{minutes // 1440} d"
