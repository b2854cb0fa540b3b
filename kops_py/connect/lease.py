"""The lock in the cluster: one Lease that says who works on it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType

from kops_py.connect.base import Cancel, JsonObject, KubeApi
from kops_py.model.errors import KubeError, LockedError

LEASE_NAMESPACE, LEASE_NAME = "kube-system", "kops-py"
_COLLECTION = f"/apis/coordination.k8s.io/v1/namespaces/{LEASE_NAMESPACE}/leases"
_PATH = f"{_COLLECTION}/{LEASE_NAME}"
_PREFIX = "kops-py/"
_PROCESS = "process"
_CLOCK_TOLERANCE_S = 10.0
"""Clocks of the machines that share a cluster may differ by this much before a holder seems stale too early."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What a Lease object says about who holds it; times are seconds since the epoch."""

    holder: str
    since_s: float
    renewed_s: float
    ttl_s: float
    detail: Mapping[str, str]

    def stale_in_s(self, now_s: float) -> float:
        """Return how long until nobody needs to believe in this holder any more; 0 or less: it is stale."""
        return self.renewed_s + self.ttl_s + _CLOCK_TOLERANCE_S - now_s


def read_holding(lease: JsonObject) -> Holding | None:
    """Return who holds a Lease, or None when nobody does."""
    spec = lease.get("spec") or {}
    holder = str(spec.get("holderIdentity") or "")
    if not holder:
        return None
    annotations = (lease.get("metadata") or {}).get("annotations") or {}
    return Holding(
        holder=holder,
        since_s=_seconds(spec.get("acquireTime")),
        renewed_s=_seconds(spec.get("renewTime")),
        ttl_s=float(spec.get("leaseDurationSeconds") or 0),
        detail={k.removeprefix(_PREFIX): str(v) for k, v in annotations.items() if k.startswith(_PREFIX)},
    )


def process_identity() -> str:
    """Return what tells this process from every other one: boot, process namespace, number and start time.

    Empty where /proc does not say it. A program that was killed is thereby known as gone at once when the same
    machine asks, without waiting for its lease to run out.
    """
    return _identity_of(os.getpid())


def is_gone(identity: str) -> bool:
    """Whether the process of an identity ran on this machine, in this boot, and is no more; False when unsure."""
    mine, theirs = process_identity().split(":"), identity.split(":")
    if len(mine) != 4 or len(theirs) != 4 or mine[:2] != theirs[:2] or not theirs[2].isdigit():
        return False
    now = _identity_of(int(theirs[2]))
    if now:
        return now != identity
    try:
        os.kill(int(theirs[2]), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False  # there, but hidden from us


class ClusterLease:
    """A lock on the cluster, renewed in the background while it is held; usable as a context manager.

    ``holder`` is unique to this run (``user@host pid run-id``), ``detail`` what others are shown (``command``).
    ``lost`` is True after ``ttl_s`` seconds without a renewal and once somebody else took over; ``on_lost`` is
    then called with the reason, from the renewing thread, once per loss. When only the API was away and nobody
    took over, renewing goes on and ``lost`` turns False again with the first success. ``api`` may be a function
    that returns a working connection, for those who change connections while the lock is held.
    """

    def __init__(
        self,
        api: KubeApi | Callable[[], KubeApi],
        holder: str,
        detail: Mapping[str, str],
        ttl_s: float = 30.0,
        *,
        on_lost: Callable[[str], None] | None = None,
        on_wait: Callable[[str], None] | None = None,
        cancel: Cancel | None = None,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._connection = api
        self._holder = holder
        self._detail = dict(detail)
        self._ttl_s = ttl_s
        self._on_lost = on_lost
        self._on_wait = on_wait
        self._cancel = cancel or Cancel()
        self._now_s = now_s
        self._lease: JsonObject | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._lost = threading.Event()

    @property
    def _api(self) -> KubeApi:
        return self._connection() if callable(self._connection) else self._connection

    @property
    def lost(self) -> bool:
        """Whether this run can no longer be sure that it holds the lock."""
        return self._lost.is_set()

    def acquire(self) -> None:
        """Take the lock and start renewing it; raises LockedError (who holds it, since when) and KubeError.

        A stale lock of another machine is taken over only after half its time to live was watched without a
        renewal, because the other clock may be wrong; one of a process of this machine that is gone, at once.
        """
        for _ in range(3):
            current = self._api.get_or_none(_PATH)
            holding = read_holding(current) if current else None
            if holding is not None and holding.holder != self._holder:
                assert current is not None  # noqa: S101 - follows from holding
                self._refuse_or_confirm_stale(current, holding)
            try:
                self._lease = self._write(current)
                break
            except KubeError as error:
                if error.status != 409:
                    raise
        else:
            raise LockedError(
                "the lock changed hands while it was being taken",
                where=f"Lease {LEASE_NAMESPACE}/{LEASE_NAME}",
                hint="somebody else started at the same moment; run kops-py status, then try again",
            )
        self._lost.clear()
        self._stop.clear()
        self._thread = threading.Thread(target=self._keep, name="kops-py-lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Stop renewing and remove the lock if it is still ours; safe to call twice.

        Never raises KubeError: a lock that cannot be removed runs out by itself.
        """
        with self._cancel.unheard():
            self._release()

    def _release(self) -> None:
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        lease, self._lease = self._lease, None
        if lease is None:
            return
        metadata = lease["metadata"]
        only_ours = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        try:
            self._api.delete(_PATH, body={"preconditions": only_ours}, timeout_s=min(5.0, self._ttl_s))
        except KubeError:
            return

    def __enter__(self) -> ClusterLease:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _refuse_or_confirm_stale(self, current: JsonObject, holding: Holding) -> None:
        """Return when the holder is gone; raise LockedError when it lives or may live."""
        if is_gone(holding.detail.get(_PROCESS, "")):
            return
        now_s = self._now_s()
        if holding.stale_in_s(now_s) > 0:
            raise _locked(holding, now_s)
        watch_s = max(holding.ttl_s, self._ttl_s) / 2
        if self._on_wait:
            self._on_wait(f"the lock of {holding.holder} to show no sign of life for {watch_s:.0f} s")
        deadline = time.monotonic() + watch_s
        while time.monotonic() < deadline:
            if self._cancel.wait(min(1.0, watch_s / 5)):
                self._cancel.check()
            seen = self._api.get_or_none(_PATH)
            if seen is None:
                return
            if seen["metadata"]["resourceVersion"] != current["metadata"]["resourceVersion"]:
                renewed = read_holding(seen)
                if renewed is None:
                    return
                raise _locked(renewed, self._now_s())

    def _write(self, current: JsonObject | None) -> JsonObject:
        """Make ourselves the holder of the Lease as it was read; KubeError 409 when it has changed since."""
        now = _micro_time(self._now_s())
        annotations = {f"{_PREFIX}{key}": value for key, value in self._detail.items()}
        annotations[f"{_PREFIX}{_PROCESS}"] = process_identity()
        body: JsonObject = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": LEASE_NAME, "namespace": LEASE_NAMESPACE, "annotations": annotations},
            "spec": {
                "holderIdentity": self._holder,
                "leaseDurationSeconds": max(1, round(self._ttl_s)),
                "acquireTime": now,
                "renewTime": now,
            },
        }
        if current is None:
            return self._api.create(_COLLECTION, body)
        body["metadata"]["resourceVersion"] = current["metadata"]["resourceVersion"]
        return self._api.replace(_PATH, body)

    def _keep(self) -> None:
        """Renew every third of the time to live until told to stop or somebody else holds the lock.

        Also while the run is ending: what it has under way is to be its own until it has ended.
        """
        with self._cancel.unheard():
            self._renew_on()

    def _renew_on(self) -> None:
        renewed = time.monotonic()
        pause_s = self._ttl_s / 3
        while not self._stop.wait(pause_s):
            taken_by, problem = self._renew()
            if taken_by:
                self._lose(f"the lock is now held by {taken_by}")
                self._lease = None
                return
            if not problem:
                renewed = time.monotonic()
                self._lost.clear()
            elif time.monotonic() - renewed > self._ttl_s:
                self._lose(f"the lock could not be renewed for {time.monotonic() - renewed:.0f} s: {problem}")
            pause_s = self._ttl_s / (10 if problem else 3)

    def _renew(self) -> tuple[str, str]:
        """Renew once; returns who holds the lock instead of us, and what kept the renewal from working."""
        assert self._lease is not None  # noqa: S101 - the thread runs between acquire and release only
        spec = {**self._lease["spec"], "renewTime": _micro_time(self._now_s())}
        try:
            self._lease = self._api.replace(_PATH, {**self._lease, "spec": spec}, timeout_s=self._ttl_s / 3)
        except KubeError as error:
            if error.status not in {404, 409}:
                return "", str(error)
            return self._look_again()
        return "", ""

    def _look_again(self) -> tuple[str, str]:
        """Find out what a conflict means: a renewal of ours whose answer was lost, or another holder."""
        try:
            current = self._api.get_or_none(_PATH, timeout_s=self._ttl_s / 3)
        except KubeError as error:
            return "", str(error)
        holding = read_holding(current) if current else None
        if current is None or holding is None:
            return "nobody (the Lease was removed)", ""
        if holding.holder != self._holder:
            return holding.holder, ""
        self._lease = current
        return "", "the Lease had been changed by another hand"

    def _lose(self, reason: str) -> None:
        if self._lost.is_set():
            return
        self._lost.set()
        if self._on_lost:
            self._on_lost(reason)


def _locked(holding: Holding, now_s: float) -> LockedError:
    since = datetime.fromtimestamp(holding.since_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    command = holding.detail.get("command", "")
    left_s = max(0.0, holding.stale_in_s(now_s))
    return LockedError(
        f"{holding.holder} works on this cluster since {since}" + (f" ({command})" if command else ""),
        where=f"Lease {LEASE_NAMESPACE}/{LEASE_NAME}",
        why=f"the lock was renewed {max(0.0, now_s - holding.renewed_s):.0f} s ago and counts as stale "
        f"in {left_s:.0f} s unless it is renewed again",
        hint="wait for it to end; if that run is dead, the same command takes the lock over once it is stale",
    )


def _identity_of(pid: int) -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        namespace = str(Path("/proc/self/ns/pid").readlink())
        # the 22nd field, counted after the command name, which may hold spaces and brackets
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    started = "ended" if fields[0] in {"Z", "X"} else fields[19]
    return f"{boot}:{namespace.strip('pid:[]')}:{pid}:{started}"


def _micro_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _seconds(text: object) -> float:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return 0.0
