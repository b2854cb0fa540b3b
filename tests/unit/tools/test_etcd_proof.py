"""What the proof prints, read; the programs it needs, found."""

from __future__ import annotations

import base64
import json

import pytest

from kops_py.tools import etcd_binaries, etcd_proof
from kops_py.tools.etcd_proof import EtcdBinaries

UID = "3f9a2c1d-0d0a-4f7b-9c55-1c8a4b0f6f0e"


def encoded(text: str | bytes) -> str:
    return base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()


def answer(*keys: tuple[str, bytes], **more: object) -> str:
    kvs = [{"key": encoded(k), "mod_revision": n, "value": encoded(v)} for n, (k, v) in enumerate(keys, 5)]
    return json.dumps({"header": {"revision": 9}, "kvs": kvs, **more})


def proof(**changes: str) -> str:
    parts = {
        "members": "15985099378392235387",
        "status": '{"hash":3701495895,"revision":41,"totalKey":44,"totalSize":62746624}',
        "endpoint": '[{"Endpoint":"unix://c:0","Status":{"version":"3.4.23","header":{"revision":41}}}]',
        "count": answer(("a", b""), count=40),
        "namespaces": answer(("/registry/namespaces/kube-system", b""), ("/registry/namespaces/default", b"")),
        f"sample {etcd_proof.NAMESPACE}": answer((etcd_proof.NAMESPACE, b"k8s\0\x0a" + UID.encode())),
        f"sample {etcd_proof.KUBEADM_CONFIG}": answer(),
        "end": "",
        **changes,
    }
    return "".join(f"=== {name}\n{body}\n" for name, body in parts.items())


def test_the_whole_of_a_proof() -> None:
    found = etcd_proof.parse_proof(proof())
    assert (found.revision, found.total_keys, found.live_keys, found.size_bytes) == (41, 44, 40, 62746624)
    assert (found.etcd_version, found.member_ids) == ("3.4.23", ("ddd67b312462fd7b",))
    assert (found.namespaces, found.cluster_uid) == (("default", "kube-system"), UID)
    assert [(s.key, s.mod_revision) for s in found.samples] == [(etcd_proof.NAMESPACE, 5)]


@pytest.mark.parametrize("name", ["status", "endpoint", "count", "namespaces", f"sample {etcd_proof.NAMESPACE}"])
@pytest.mark.parametrize("body", ["", "{", "3"])
def test_a_proof_that_lacks_something_is_none(name: str, body: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        etcd_proof.parse_proof(proof(**{name: body}))


def test_a_proof_that_did_not_end_is_none() -> None:
    text = proof()
    for cut in range(0, text.index("=== end"), 7):
        with pytest.raises(ValueError, match="did not come to its end"):
            etcd_proof.parse_proof(text[:cut])


def test_an_encrypted_namespace_has_no_uid_to_read() -> None:
    value = b"k8s:enc:aescbc:v1:key1:" + UID.encode()
    assert etcd_proof.namespace_uid(json.loads(answer((etcd_proof.NAMESPACE, value)))) == ""
    assert etcd_proof.namespace_uid({}) == ""


def test_the_command_ends_by_itself_and_names_the_stage() -> None:
    argv = etcd_proof.proof_argv("/x", EtcdBinaries("e", "c", "t"), size_bytes=7, limit_s=60.5)
    assert argv[:3] == ("timeout", "--kill-after=10", "60")
    assert argv[7:13] == ("/x", "e", "c", "t", "7", "120")
    assert "cannot be restored" in etcd_proof.failed_stage(22)
    assert etcd_proof.failed_stage(None) == etcd_proof.failed_stage(124) == "the proof was ended"


def test_first_json_skips_warnings() -> None:
    assert etcd_proof.first_json('{"level":"warn"}\n{"header":{},"count":1}\n') == {"header": {}, "count": 1}
    with pytest.raises(ValueError, match="no answer"):
        etcd_proof.first_json("Error: context deadline exceeded\n")


@pytest.mark.parametrize(
    ("output", "version"),
    [
        ("etcd Version: 3.4.23\nGit SHA: x\n", "3.4.23"),
        ("etcdctl version: 3.5.16\nAPI version: 3.5\n", "3.5.16"),
        ("etcdutl version: 3.6.0-rc.1\n", "3.6.0"),
    ],
)
def test_versions(output: str, version: str) -> None:
    assert etcd_binaries.parse_version(output) == version


def test_only_the_same_minor_will_do() -> None:
    assert etcd_binaries.same_minor("3.4.23", "3.4.13")
    assert not etcd_binaries.same_minor("3.5.0", "3.4.23")
    assert etcd_binaries.tool_restores("3.5.21")
    assert not etcd_binaries.tool_restores("3.6.0")
    with pytest.raises(ValueError, match="not the version"):
        etcd_binaries.parse_version("bash: etcd: not found")


def test_programs_beside_the_running_member() -> None:
    output = "etcd /proc/7/exe\netcdctl /proc/7/root/usr/bin/etcdctl\n"
    assert etcd_binaries.parse_running(output) == EtcdBinaries(
        "/proc/7/exe", "/proc/7/root/usr/bin/etcdctl", "/proc/7/root/usr/bin/etcdctl"
    )
    with_tool = etcd_binaries.parse_running(output + "etcdutl /proc/7/root/usr/bin/etcdutl\n")
    assert with_tool is not None
    assert with_tool.tool.endswith("etcdutl")
    assert etcd_binaries.parse_running("") is None
    assert etcd_binaries.parse_running("etcd /proc/7/exe\n") is None
