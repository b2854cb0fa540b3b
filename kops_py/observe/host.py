"""Observes hosts: one round trip to each, all side by side."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Mapping

from kops_py.connect.base import Cancel, Fleet, Host
from kops_py.model.errors import CommandFailedError, KopsError
from kops_py.model.facts import HostFacts
from kops_py.model.spec import ClusterSpec, HostSpec
from kops_py.observe import host_parse
from kops_py.observe.host_script import script

OBSERVE_TIMEOUT_S = 30.0
"""How long the script may run on a host that answers; whether one answers is decided by the connection's limit."""

NO_CLOCK_UNCERTAINTY_S = 1e9
"""Uncertainty of a clock that could not be read: it swallows every difference."""


def clock(remote_s: float, sent_s: float, received_s: float) -> tuple[float, float]:
    """Return offset and uncertainty of a remote clock that was read between two moments of ours, in seconds."""
    return remote_s - (sent_s + received_s) / 2, (received_s - sent_s) / 2


def observe_host(host: Host, wanted: HostSpec, endpoint: str, *, cancel: Cancel | None) -> HostFacts:
    """Look at one host; raises HostError."""
    nonce = f"kops-{secrets.token_hex(12)}"
    pieces: list[bytes] = []
    first_s = 0.0

    def collect(piece: bytes) -> None:
        nonlocal first_s
        first_s = first_s or time.time()
        pieces.append(piece)

    interpreter = wanted.variables.get("ansible_python_interpreter", "")
    python = interpreter if isinstance(interpreter, str) and interpreter.startswith("/") else ""
    sent_s = time.time()
    result = host.run(
        ("sh", "-s", "--", nonce, endpoint, python),
        sudo=True,
        stdin=script().encode(),
        timeout_s=OBSERVE_TIMEOUT_S,
        check=False,
        cancel=cancel,
        stdout_to=collect,
    )
    ended_s = time.time()
    found, finished = host_parse.sections(b"".join(pieces).decode("utf-8", "replace"), nonce)
    if not finished:
        raise CommandFailedError(
            "looking at the host ended early",
            where=wanted.name,
            why=(result.err.strip().splitlines() or ["no output"])[-1][:300],
            hint=f"log in to {wanted.address}: does sh work there, is the host out of memory?",
            exit_status=result.exit_status,
        )
    facts = host_parse.host_facts(wanted.name, found, frozenset({wanted.address, wanted.node_ip}))
    remote_s = host_parse.clock_of(found.get("clock", ""))
    if remote_s is None:
        return dataclasses.replace(facts, clock_uncertainty_s=NO_CLOCK_UNCERTAINTY_S)
    # The connection may have been opened within run(); the command itself lasted duration_s at most.
    began_s = min(max(sent_s, ended_s - result.duration_s), first_s)
    offset_s, uncertainty_s = clock(remote_s, began_s, first_s)
    return dataclasses.replace(facts, clock_offset_s=offset_s, clock_uncertainty_s=uncertainty_s)


def observe_hosts(fleet: Fleet, spec: ClusterSpec, *, cancel: Cancel | None = None) -> Mapping[str, HostFacts]:
    """Look at every host of the inventory; one that cannot be asked has its ``problem`` set.

    Changes nothing on the hosts. Raises CancelledError.
    """

    def work(host: Host) -> HostFacts:
        return observe_host(host, spec.host(host.name), spec.endpoint.host, cancel=cancel)

    answers = fleet.map([h.name for h in spec.hosts], work, cancel=cancel)
    if cancel is not None:
        cancel.check()
    return {
        name: HostFacts(name=name, problem=answer) if isinstance(answer, KopsError) else answer
        for name, answer in answers.items()
    }
