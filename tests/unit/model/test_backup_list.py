"""How it stands with backups: silence is failure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kops_py.model.backup_list import BackupCheck, BackupLine, CheckResult, check_store, textfile

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


def line(hours: float, state: str = "good") -> BackupLine:
    at = NOW - timedelta(hours=hours)
    return BackupLine(f"{at:%Y%m%dT%H%M%SZ}-00000000", "local", at, state, "because", 10, 42)


def check(*lines: BackupLine, max_age_h: float = 6) -> BackupCheck:
    found = check_store("local", lines, now=NOW, max_age_s=max_age_h * 3600)
    return BackupCheck("prod", NOW, max_age_h * 3600, (found,))


def test_a_young_good_one_is_enough() -> None:
    found = check(line(2), line(30), line(1, "begun"))
    assert found.result is CheckResult.OK
    assert found.line == "OK: etcd backups of prod: local: newest good 2 h 00 min old, 2 good"


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ((), "there is no good backup"),
        ((line(7),), "is 7 h 00 min old, 6 h 00 min allowed"),
        ((line(1, "stored"),), "there is no good backup"),
        ((line(2), line(1, "failed")), "is failed: because"),
        ((line(2), line(1, "broken-off")), "is broken-off"),
        ((line(2), line(1, "damaged")), "is damaged"),
        ((line(2), line(1, "unsigned")), "is unsigned"),
        ((line(-1),), "of the future"),
        ((line(1, "begun"),), "there is no good backup"),
    ],
)
def test_everything_else_is_not(lines: tuple[BackupLine, ...], said: str) -> None:
    found = check(*lines)
    assert found.result is CheckResult.CRITICAL
    assert said in found.line
    assert found.to_json()["result"] == "CRITICAL"
    assert 'kops_py_etcd_backup_ok{cluster="prod",store="local"} 0' in textfile(found)


def test_no_store_is_the_worst() -> None:
    assert BackupCheck("prod", NOW, 1, ()).result is CheckResult.CRITICAL


def test_the_text_file_is_what_prometheus_reads() -> None:
    text = textfile(check(line(2)))
    assert 'kops_py_etcd_backup_last_good_revision{cluster="prod",store="local"} 42' in text
    assert (
        f'last_good_timestamp_seconds{{cluster="prod",store="local"}} {(NOW - timedelta(hours=2)).timestamp():.0f}'
        in text
    )
    names = [x.split("{")[0] for x in text.splitlines() if not x.startswith("#")]
    for name in names:
        assert f"# TYPE {name} gauge" in text
