"""Every finding of upgrades, patches and drains, in the order of their documentation (docs/upgrade-findings.md)."""

from __future__ import annotations

from kops_py.model.finding import FindingKind
from kops_py.runbooks import (
    api_removals,
    disruption,
    node_add,
    node_remove,
    patch,
    replace,
    rollout,
    upgrade_path,
    upgrade_rules,
)

UPGRADE_KINDS: tuple[FindingKind, ...] = (*upgrade_path.KINDS, *upgrade_rules.KINDS, *api_removals.KINDS)
DRAIN_KINDS: tuple[FindingKind, ...] = (*rollout.KINDS, *patch.KINDS, *disruption.KINDS)
MEMBERSHIP_KINDS: tuple[FindingKind, ...] = (*node_add.KINDS, *node_remove.KINDS, *replace.KINDS)
IDS = frozenset(kind.id for kind in (*UPGRADE_KINDS, *DRAIN_KINDS, *MEMBERSHIP_KINDS))
