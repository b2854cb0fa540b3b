"""What bench.upgrade makes of a journal: each node's time by kind, and what is left is ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from bench.upgrade import KINDS, SAFE, from_journal


def steps(node: str, at_s: float, *costs: tuple[str, float]) -> Iterator[dict[str, Any]]:
    """Yield the records of a chain, each step half a second after the one before."""
    for kind, duration_s in costs:
        step = f"{kind}/{node}@v1.21.0"
        yield {"at_s": at_s, "kind": "step-start", "step": step, "node": node}
        if kind == "upgrade":
            yield {"at_s": at_s + 15, "kind": "kubeadm-end", "step": step, "node": node, "exit_status": 0}
        if kind == "drain":
            yield {"at_s": at_s + 2, "kind": "drain-begin", "step": step, "node": node}
        at_s += duration_s
        yield {"at_s": at_s, "kind": "step-end", "step": step, "node": node, "duration_s": duration_s}
        at_s += 0.5


def test_costs_of_nodes() -> None:
    chain = (("kubeadm", 3.0), ("upgrade", 20.0), ("cordon", 0.5), ("drain", 7.0), ("kubelet", 4.0), ("healthy", 9.0))
    records = [
        {"at_s": 0.0, "kind": "run-start"},
        *steps("n1", 1.0, ("stage", 5.0)),
        *steps("n1", 10.0, *chain),
        *steps("n2", 60.0, *chain[2:]),
        {"at_s": 90.0, "kind": "run-end"},
    ]
    found = from_journal(records)
    assert found["n1"] == pytest.approx({"packages": 7, "kubeadm": 15, SAFE: 2, "drain": 5, "ready": 9, "rest": 12})
    assert found["n2"] == pytest.approx({"packages": 4, SAFE: 2, "drain": 5, "ready": 9, "rest": 10})
    assert set(found["n1"]) == set(KINDS)
    assert sum(found["n1"].values()) == 50, "the look after a node belongs to it"
