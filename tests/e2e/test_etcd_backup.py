"""Backups of a real cluster's etcd alone; the short scenario of a single node holds the same checks for CI."""

from __future__ import annotations

import pytest

from tests.e2e import backups
from tests.e2e.bed import Bed


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_backups_of_a_real_cluster(bed: Bed) -> None:
    bed.boot(1)
    bed.write_inventory(control_planes=["n1"], workers=["n1"])
    bed.write_cluster("alone")
    bed.say(f"bootstrap {bed.bootstrap().duration_s:.1f} s")
    backups.check_backups(bed, "alone")
