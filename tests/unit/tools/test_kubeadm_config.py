"""The rendered configuration is exactly the recorded one, and has no field its API version lacks."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kops_py.model.errors import ConfigError
from kops_py.model.spec import Endpoint, Taint, Timeouts
from kops_py.model.version import TABLE, Version
from kops_py.tools import kubeadm
from tests.unit.tools.kubeadm_cases import (
    CA_HASH,
    CASES,
    KEY,
    TOKEN,
    VERSIONS,
    cluster,
    dual_stack,
    host,
    render_init,
    render_join,
    single,
    stacked,
)
from tests.unit.tools.kubeadm_fields import unknown_fields

GOLDEN = Path(__file__).parent / "golden"


def documents(text: str) -> dict[str, Any]:
    return {document["kind"]: document for document in yaml.safe_load_all(text)}


def init(spec: Any, **options: Any) -> dict[str, Any]:
    text = kubeadm.init_config(spec, spec.host("n1"), token=TOKEN, token_ttl_s=1800, certificate_key=KEY, **options)
    return documents(text)


@pytest.mark.parametrize("api", VERSIONS)
@pytest.mark.parametrize("case", CASES)
def test_configuration_is_the_recorded_one(case: str, api: str) -> None:
    make, render = CASES[case]
    text = render(make(VERSIONS[api]))
    path = GOLDEN / f"kubeadm-{case}-{api}.yaml"
    if os.environ.get("KOPS_UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), f"set KOPS_UPDATE_GOLDEN=1 to record {path.name} anew, then read the difference"


@pytest.mark.parametrize("minor", TABLE)
@pytest.mark.parametrize("case", CASES)
def test_no_field_that_the_version_lacks(case: str, minor: int) -> None:
    make, render = CASES[case]
    for document in documents(render(make(f"v1.{minor}.0"))).values():
        assert unknown_fields(document) == []
        if document["apiVersion"].startswith("kubeadm"):
            assert document["apiVersion"] == TABLE[minor].kubeadm_api


def test_the_field_table_finds_a_field_of_another_version() -> None:
    found = init(single("v1.28.0"))["InitConfiguration"]
    assert found["skipPhases"] == ["show-join-command"]
    assert unknown_fields(found | {"apiVersion": "kubeadm.k8s.io/v1beta2"}) == [
        "InitConfiguration.skipPhases does not exist"
    ]
    assert unknown_fields(found | {"apiVersion": "kubeadm.k8s.io/v1beta4"}) == [
        "InitConfiguration.nodeRegistration.kubeletExtraArgs is not a list of name and value"
    ]


def test_the_join_command_phase_is_skipped_where_it_exists() -> None:
    assert "skipPhases" not in init(single("v1.25.0"))["InitConfiguration"]
    assert init(single("v1.26.0"))["InitConfiguration"]["skipPhases"] == ["show-join-command"]


def test_taints_follow_the_groups_and_the_inventory() -> None:
    def taints(**fields: Any) -> Any:
        groups = fields.pop("groups", ("kube_control_plane",))
        spec = cluster(host("n1", "10.0.0.1", *groups, **fields))
        return init(spec)["InitConfiguration"]["nodeRegistration"].get("taints")

    assert taints() is None
    assert taints(groups=("kube_control_plane", "kube_node")) == []
    assert taints(taints=()) == []
    assert taints(taints=(Taint("a", "", "NoExecute"),)) == [{"key": "a", "effect": "NoExecute"}]


def test_labels_are_split_by_who_may_set_them() -> None:
    labels = {
        "disk": "ssd",
        "example.com/rack": "r1",
        "node-role.kubernetes.io/worker": "",
        "node-restriction.kubernetes.io/team": "a",
        "kubernetes.io/hostname": "x",
        "kubernetes.io/other": "x",
        "foo.k8s.io/x": "y",
        "node.kubernetes.io/pool": "p",
        "my.kubelet.kubernetes.io/y": "z",
        "topology.kubernetes.io/zone": "a",
        "notkubernetes.io/z": "1",
    }
    node = host("w1", "10.0.0.1", "kube_node", labels=labels)
    assert labels.keys() - kubeadm.labels_via_kubelet(node).keys() == {
        "node-role.kubernetes.io/worker",
        "node-restriction.kubernetes.io/team",
        "kubernetes.io/other",
        "foo.k8s.io/x",
    }
    assert kubeadm.labels_via_kubelet(node).items() <= labels.items()


def test_cgroup_v1_is_allowed_only_when_said_and_where_the_field_exists() -> None:
    new = init(single("v1.35.0"), cgroup_v1=True)
    assert new["KubeletConfiguration"]["failCgroupV1"] is False
    assert new["InitConfiguration"]["nodeRegistration"]["ignorePreflightErrors"] == ["SystemVerification"]
    assert "failCgroupV1" not in init(single("v1.35.0"))["KubeletConfiguration"]
    old = init(single("v1.30.0"), cgroup_v1=True)
    assert "failCgroupV1" not in old["KubeletConfiguration"]
    assert "ignorePreflightErrors" not in old["InitConfiguration"]["nodeRegistration"]


def test_given_preflight_errors_and_extra_ones_are_both_ignored() -> None:
    spec = cluster(
        host("n1", "10.0.0.1", "kube_control_plane"),
        extra={"InitConfiguration": {"nodeRegistration": {"ignorePreflightErrors": ["NumCPU"]}}},
    )
    registration = init(spec, ignore_preflight_errors={"Mem", "Swap"})["InitConfiguration"]["nodeRegistration"]
    assert registration["ignorePreflightErrors"] == ["Mem", "Swap", "NumCPU"]


def test_dual_stack_needs_a_gate_in_1_20_only_and_takes_the_second_address() -> None:
    assert init(dual_stack("v1.20.2"))["ClusterConfiguration"]["featureGates"] == {"IPv6DualStack": True}
    assert "featureGates" not in init(dual_stack("v1.21.0"))["ClusterConfiguration"]
    spec = dual_stack("v1.31.0")
    assert kubeadm.node_addresses(spec, spec.host("n1")) == "10.0.0.1,fd00::1"
    sans = init(spec)["ClusterConfiguration"]["apiServer"]["certSANs"]
    assert {"10.0.0.1", "fd00::1"} <= set(sans)


def test_a_control_plane_without_a_key_is_a_mistake_of_the_caller() -> None:
    spec = stacked("v1.31.0")
    with pytest.raises(ValueError, match="n2 joins as a control plane"):
        kubeadm.join_config(spec, spec.host("n2"), api_endpoint="x:6443", token=TOKEN, ca_cert_hash=CA_HASH)


def test_a_worker_never_gets_the_certificate_key() -> None:
    assert KEY not in render_join("w1")(stacked("v1.31.0"))


def test_an_ipv6_endpoint_is_bracketed() -> None:
    spec = replace(single("v1.31.0"), endpoint=Endpoint("fd00::1", 6443))
    found = init(spec)["ClusterConfiguration"]
    assert found["controlPlaneEndpoint"] == "[fd00::1]:6443"
    assert "fd00::1" in found["apiServer"]["certSANs"]


def test_kubeadm_gives_up_before_kops_py_does() -> None:
    spec = replace(stacked("v1.31.0"), timeouts=Timeouts(kubeadm_s=100))
    timeouts = documents(render_join("n2")(spec))["JoinConfiguration"]["timeouts"]
    assert all(int(value.removesuffix("s")) < 100 for value in timeouts.values())


def test_extra_arguments_override_by_name_in_every_form() -> None:
    for version in ("v1.30.0", "v1.31.0"):
        for extra in (
            {"node-ip": "192.0.2.1", "v": 4},
            [{"name": "node-ip", "value": "192.0.2.1"}, {"name": "v", "value": "4"}],
        ):
            spec = cluster(
                host("n1", "10.0.0.1", "kube_control_plane"),
                version=version,
                extra={"InitConfiguration": {"nodeRegistration": {"kubeletExtraArgs": extra}}},
            )
            arguments = init(spec)["InitConfiguration"]["nodeRegistration"]["kubeletExtraArgs"]
            pairs = arguments if isinstance(arguments, dict) else {a["name"]: a["value"] for a in arguments}
            assert pairs == {"node-ip": "192.0.2.1", "v": "4"}


def test_arguments_that_appear_twice_need_v1beta4() -> None:
    extra = {"apiServer": {"extraArgs": [{"name": "a", "value": "1"}, {"name": "a", "value": "2"}]}}
    node = host("n1", "10.0.0.1", "kube_control_plane")
    assert (
        len(init(cluster(node, version="v1.31.0", extra=extra))["ClusterConfiguration"]["apiServer"]["extraArgs"]) == 2
    )
    with pytest.raises(ConfigError, match="names an argument twice"):
        init(cluster(node, version="v1.30.0", extra=extra))


@pytest.mark.parametrize(
    ("extra", "what"),
    [
        ({"kubernetesVersion": "v1.0.0"}, "ClusterConfiguration.kubernetesVersion cannot be set here"),
        ({"InitConfiguration": {"certificateKey": "x"}}, "InitConfiguration.certificateKey cannot be set here"),
        ({"JoinConfiguration": {"discovery": {}}}, "JoinConfiguration.discovery cannot be set here"),
        ({"KubeletConfiguration": {"kind": "x"}}, "KubeletConfiguration.kind cannot be set here"),
        ({"InitConfiguration": {"skipPhases": ["x"]}}, "skipPhases does not exist in kubeadm.k8s.io/v1beta2"),
        ({"KubeletConfiguration": "x"}, "KubeletConfiguration must be a mapping"),
        ({"apiServer": {"extraArgs": ["x"]}}, "ClusterConfiguration.apiServer.extraArgs is not understood"),
        ({"apiServer": {"extraArgs": {"a": None}}}, "ClusterConfiguration.apiServer.extraArgs is not understood"),
        ({"apiServer": {"extraArgs": 7}}, "ClusterConfiguration.apiServer.extraArgs is not understood"),
    ],
)
def test_extra_fields_that_cannot_be_used_are_refused(extra: dict[str, Any], what: str) -> None:
    spec = cluster(host("n1", "10.0.0.1", "kube_control_plane"), version="v1.20.2", extra=extra)
    with pytest.raises(ConfigError) as caught:
        kubeadm.check_extra(spec)
    assert what in caught.value.what
    assert caught.value.where


def test_all_refused_fields_are_told_at_once() -> None:
    extra = {"clusterName": "x", "JoinConfiguration": {"controlPlane": {}, "discovery": {}}}
    with pytest.raises(ConfigError) as caught:
        kubeadm.check_extra(cluster(host("n1", "10.0.0.1", "kube_control_plane"), extra=extra))
    assert len(caught.value.others) == 2


@given(st.text(max_size=30))
def test_any_text_survives_the_yaml(text: str) -> None:
    (document,) = yaml.safe_load_all(kubeadm.to_yaml([{"a": text, "b": [text]}]))
    assert document == {"a": text, "b": [text]}


def test_texts_that_other_yaml_readers_take_for_numbers_are_quoted() -> None:
    # go-yaml reads a plain 12e345 as a number, PyYAML as a text.
    assert kubeadm.to_yaml([{"token": "12e345", "port": 6443}]) == '---\ntoken: "12e345"\nport: 6443\n'


def test_version_chooses_the_argv() -> None:
    assert kubeadm.config_validate_argv(Version.parse("v1.27.9"), "/x") is None
    assert kubeadm.config_validate_argv(Version.parse("v1.28.0"), "/x") == (
        *("kubeadm", "config", "validate", "--config", "/x"),
    )


def test_init_prints_no_secret() -> None:
    argv = kubeadm.init_argv("/etc/kops-py/init.yaml", upload_certs=True)
    assert {"--skip-token-print", "--skip-certificate-key-print", "--upload-certs"} <= set(argv)
    assert "--upload-certs" not in kubeadm.init_argv("/x", upload_certs=False)
    assert "--skip-certificate-key-print" in kubeadm.upload_certs_argv("/x")


def test_rendering_does_not_change_the_spec() -> None:
    spec = stacked("v1.31.0")
    assert render_init(spec) == render_init(spec)
