"""Every finding of upgrades, patches and drains, in the order of their documentation (docs/upgrade-findings.md)."""

from __future__ import annotations

from kops_py.model.finding import FindingKind
from kops_py.runbooks import api_removals, disruption, patch, rollout, upgrade_path, upgrade_rules

UPGRADE_KINDS: tuple[FindingKind, ...] = (*upgrade_path.KINDS, *upgrade_rules.KINDS, *api_removals.KINDS)
DRAIN_KINDS: tuple[FindingKind, ...] = (*rollout.KINDS, *patch.KINDS, *disruption.KINDS)
IDS = frozenset(kind.id for kind in (*UPGRADE_KINDS, *DRAIN_KINDS))
