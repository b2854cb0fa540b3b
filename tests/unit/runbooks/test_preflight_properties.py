"""Whatever a host says, preflight neither raises nor invents severities."""

from __future__ import annotations

import dataclasses
from types import MappingProxyType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from kops_py.model.errors import DeadlineError, SudoError, UnreachableError
from kops_py.model.facts import DiskFacts, Facts, HostFacts, JobState
from kops_py.model.preflight import FsyncProbe, PortProbe, ProbeResults, Reach, UrlProbe, UrlUse
from kops_py.model.version import TABLE, Version
from kops_py.observe.host_script import DISK_PATHS, LEFTOVERS
from kops_py.runbooks.preflight import CHECKS, preflight
from tests.unit.runbooks.preflight_cases import healthy, make_kube, make_spec

WORDS = st.text(max_size=12)
NUMBERS = st.integers(0, 2**45)
NAMES = st.sampled_from(["n1", "n2", "n3", "n4", "stranger"])
INTERFACES = st.sampled_from(["10.0.0.11/24", "10.244.0.1/24", "fd00::5/64", "172.17.0.1/16", "10.1.2.3/32"])
NETWORKS = st.sampled_from(["10.0.0.0/8", "10.244.1.0/24", "fd00::/64", "192.168.0.0/16"])
DISK = st.builds(DiskFacts, st.sampled_from(DISK_PATHS), NUMBERS, NUMBERS, WORDS)


def frozen(keys: st.SearchStrategy[Any], values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(keys, values, max_size=4).map(MappingProxyType)


def sets(items: st.SearchStrategy[str]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(items, max_size=4)


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "problem": st.sampled_from([None, None, None, UnreachableError("x"), SudoError("x"), DeadlineError("x")]),
    "sudo": st.booleans(),
    "os_id": st.sampled_from(["debian", "ubuntu", "rocky", "", "x"]),
    "os_version": WORDS,
    "architecture": WORDS,
    "kernel": WORDS,
    "python": WORDS,
    "cpus": st.integers(0, 4),
    "memory_bytes": NUMBERS,
    "disks": frozen(st.sampled_from(DISK_PATHS), DISK),
    "hostname": WORDS,
    "machine_id": st.sampled_from(["", "a", "b"]),
    "product_uuid": WORDS,
    "macs": sets(WORDS),
    "addresses": sets(INTERFACES),
    "routes": sets(NETWORKS),
    "clock_offset_s": st.floats(-1e9, 1e9),
    "clock_uncertainty_s": st.floats(0, 1e9),
    "swap_bytes": NUMBERS,
    "swap_in_fstab": st.booleans(),
    "listening": frozen(st.sampled_from([22, 2379, 6443, 10250, 10257]), WORDS),
    "cgroup_version": st.integers(0, 2),
    "features": sets(st.sampled_from(["overlay", "br_netfilter", "nf_tables"])),
    "containerd_version": WORDS,
    "manifests": sets(WORDS),
    "has_kubelet_conf": st.booleans(),
    "cni_configs": sets(WORDS),
    "jobs": frozen(WORDS, st.sampled_from(JobState)),
    "resolves_endpoint": sets(st.sampled_from(["10.0.0.11", "127.0.1.1", "fd00::1"])),
    "resolves_hostname": sets(st.sampled_from(["10.0.0.11"])),
    "services": sets(st.sampled_from(["firewalld.service", "chrony.service", "docker.service"])),
    "runtime_sockets": sets(st.sampled_from(["docker", "containerd", "crio"])),
    "leftovers": sets(st.sampled_from(LEFTOVERS)),
    "ca_digest": st.sampled_from(["", "a", "b"]),
    "apparmor": st.booleans(),
    "proxies": sets(WORDS),
}


@st.composite
def hosts(draw: st.DrawFn, name: str, index: int) -> HostFacts:
    chosen = draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=8))
    return dataclasses.replace(healthy(name, index), **{field: draw(FIELDS[field]) for field in sorted(chosen)})


PROBES = st.builds(
    ProbeResults,
    st.lists(
        st.builds(PortProbe, NAMES, NAMES, WORDS, st.integers(1, 65535), st.sampled_from(Reach), WORDS), max_size=4
    ).map(tuple),
    st.lists(
        st.builds(UrlProbe, NAMES, st.sampled_from(UrlUse), WORDS, WORDS, st.integers(0, 599), WORDS), max_size=4
    ).map(tuple),
    st.lists(
        st.builds(FsyncProbe, NAMES, WORDS, st.integers(0, 99), st.floats(0, 1e6), st.floats(0, 1e6)), max_size=2
    ).map(tuple),
    WORDS,
    st.dictionaries(NAMES, st.just(DeadlineError("x")), max_size=2),
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_never_raises_and_keeps_its_promises(data: st.DataObject) -> None:
    spec = make_spec(data.draw(st.integers(1, 2)), data.draw(st.integers(0, 1)), data.draw(st.integers(0, 1)))
    minor = data.draw(st.sampled_from(sorted(TABLE)))
    spec = dataclasses.replace(spec, kubernetes=dataclasses.replace(spec.kubernetes, version=Version(1, minor, 0)))
    facts = {h.name: data.draw(hosts(h.name, i)) for i, h in enumerate(spec.hosts, 1)}
    kube = data.draw(st.sampled_from([None, make_kube("n1"), make_kube("n1", "gone", kubelet="what")]))
    found = preflight(spec, Facts(facts, kube), data.draw(PROBES))
    allowed = {c.id: c.severities for c in CHECKS}
    assert all(f.severity in allowed[f.id] for f in found)
    assert all(f.message and f.hint for f in found)
    for name, host in facts.items():
        if host.problem is not None:
            assert len([f for f in found if f.node == name]) == 1
