"""Static pods on their host: what their manifests are, told apart by hash, and the note of them before an upgrade."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

COMPONENTS = ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler")
NOTE = "/var/lib/kops-py/static-pods.json"
"""What was there before kubeadm upgrade first began; it stays until the kubelet runs what kubeadm made of it."""

_FOLDER = "/etc/kubernetes/manifests"


@dataclass(frozen=True, slots=True)
class StaticPod:
    """A manifest's digest, and the kubelet's own hash of what it runs (kubernetes.io/config.mirror)."""

    manifest: str
    pod: str


def digests_argv() -> tuple[str, ...]:
    """Return the command for parse_digests; it fails for manifests that are not there, and goes on."""
    return ("sha256sum", "--", *(f"{_FOLDER}/{c}.yaml" for c in COMPONENTS))


def parse_digests(output: str) -> dict[str, str]:
    """Return the digest of each component's manifest."""
    found = {}
    for line in output.splitlines():
        digest, _, path = line.partition("  ")
        if path.startswith(f"{_FOLDER}/"):
            found[path.removeprefix(f"{_FOLDER}/").removesuffix(".yaml")] = digest
    return found


def write_note(pods: Mapping[str, StaticPod]) -> bytes:
    """Return the content of NOTE."""
    return json.dumps({name: [pod.manifest, pod.pod] for name, pod in sorted(pods.items())}).encode()


def read_note(content: str) -> dict[str, StaticPod]:
    """Read the content of NOTE; raises ValueError."""
    value = json.loads(content)
    if not isinstance(value, dict):
        raise ValueError("no object")  # noqa: TRY004 - like all that json raises
    return {name: StaticPod(str(manifest), str(pod)) for name, (manifest, pod) in value.items()}
