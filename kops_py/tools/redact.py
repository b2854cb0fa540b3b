"""Take secrets out of text before it is shown, logged or kept."""

from __future__ import annotations

import re
from collections.abc import Iterable

_PEM_TYPE = r"(?:[A-Z0-9]+ )*PRIVATE KEY"

_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # A private key in PEM, whole or cut at either end, with real or escaped line ends.
    (
        re.compile(
            rf"-----BEGIN {_PEM_TYPE}-----"
            rf"(?:(?:(?!-----BEGIN )[\s\S])*?-----END {_PEM_TYPE}-----|(?:[A-Za-z0-9+/=\s]|\\[nr])*)"
        ),
        "[redacted private key]",
    ),
    (
        re.compile(rf"(?:(?:[A-Za-z0-9+/=]{{4,}}|^)(?:\s|\\[nr])*)+-----END {_PEM_TYPE}-----", re.MULTILINE),
        "[redacted private key]",
    ),
    # The same in base64, as kubeconfigs and Secrets hold it; a certificate is no secret and stays.
    (re.compile(r"LS0tLS1CRUdJTi(?!BDRVJUSUZJQ0FURS)[A-Za-z0-9+/]*={0,2}"), "[redacted base64]"),
    (re.compile(r"(client-key-data[\"']?\s*[:=]\s*[\"']?)[A-Za-z0-9+/]+={0,2}"), r"\1[redacted base64]"),
    # JSON web tokens: a service account's, an identity provider's.
    (re.compile(r"eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"), "[redacted jwt]"),
    (re.compile(r"(\b[Bb]earer\s+)[A-Za-z0-9._~+/-]{16,}=*"), r"\1[redacted bearer token]"),
    # The digest of an image (image@sha256:...) is no secret, the pin of a cluster's CA is kept private.
    (re.compile(r"(?<!@)sha256:[0-9a-fA-F]{64}(?![0-9A-Za-z])"), "[redacted ca hash]"),
    (re.compile(r"(?<![0-9A-Za-z:])[0-9a-fA-F]{64}(?![0-9A-Za-z])|(?<!sha256):\K?"), ""),
    # A bootstrap token. A part of a longer dotted name (node01.kubernetesexample.com) is a host.
    (
        re.compile(r"(?<![0-9A-Za-z])(?<![0-9A-Za-z]\.)[a-z0-9]{6}\.[a-z0-9]{16}(?![0-9A-Za-z])(?!\.[A-Za-z])"),
        "[redacted token]",
    ),
)
