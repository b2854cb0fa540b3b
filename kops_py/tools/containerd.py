"""What kops-py knows about containerd: the image every pod begins with; no I/O."""

from __future__ import annotations

from kops_py.model.version import Version, facts_of


def sandbox_image(version: Version, image_repository: str | None) -> str:
    """Return the pause image that kubeadm of this version uses; raises ValueError outside the supported range.

    Another one would be pulled for every pod, and the kubelet may delete it as unused.
    """
    facts = facts_of(version)
    return f"{image_repository or facts.default_registry}/pause:{facts.pause}"
