"""What kops-py knows about containerd and crictl: versions and images; no I/O."""

from __future__ import annotations

import re

from kops_py.model.version import Version, facts_of

_VERSION = re.compile(r"\bv?(\d+)\.(\d+)\.(\d+)")

VERSION_ARGV = ("containerd", "--version")


def parse_version(output: str) -> tuple[int, int, int]:
    """Read ``containerd --version``; raises ValueError.

    Its third word is the version: ``containerd containerd.io 1.7.24 <commit>``, and in Debian's build
    ``containerd github.com/containerd/containerd 1.6.20~ds1 …``.
    """
    words = output.split()
    match = _VERSION.match(words[2]) if len(words) > 2 and words[0] == "containerd" else None
    if match is None:
        raise ValueError(f"{output.strip()!r} is not what 'containerd --version' prints")
    return int(match[1]), int(match[2]), int(match[3])


def sandbox_image(version: Version, image_repository: str | None) -> str:
    """Return the pause image that kubeadm of this version uses; raises ValueError outside the supported range.

    Another one would be pulled for every pod, and the kubelet may delete it as unused.
    """
    facts = facts_of(version)
    return f"{image_repository or facts.default_registry}/pause:{facts.pause}"
