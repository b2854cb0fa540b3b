"""Take secrets out of text before it is shown, logged or kept.

Where a secret and an ordinary text look the same (a certificate key and a container's id are both 64 hexadecimal
digits), the text goes: a lost id is a nuisance, a lost key is a breach.
"""

from __future__ import annotations

import re

_PEM_TYPE = r"(?:[A-Z0-9]+ ){0,3}PRIVATE KEY"
_PEM_END = re.compile(rf"-----END {_PEM_TYPE}-----")
_BASE64_LINE = re.compile(r"[ \t\"']*[A-Za-z0-9+/=]{1,76}[ \t\r]*")

_RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    # A private key in PEM, whole or cut at its end, with real or escaped line ends.
    (
        re.compile(
            rf"-----BEGIN {_PEM_TYPE}-----"
            rf"(?:(?:(?!-----BEGIN )[\s\S])*?-----END {_PEM_TYPE}-----|(?:[A-Za-z0-9+/=]|\s|\\[nr])*)"
        ),
        "[redacted private key]",
    ),
    # The same in base64, as kubeconfigs and Secrets hold it; a certificate is no secret and stays.
    (re.compile(r"LS0tLS1CRUdJTi(?!BDRVJUSUZJQ0FURS)[A-Za-z0-9+/]*={0,2}"), "[redacted base64]"),
    (re.compile(r"(client-key-data[\"']?\s*[:=]\s*[\"']?)[A-Za-z0-9+/]+={0,2}"), r"\1[redacted base64]"),
    # JSON web tokens: a service account's, an identity provider's.
    (
        re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?"),
        "[redacted jwt]",
    ),
    (re.compile(r"(\b[Bb]earer\s+)[A-Za-z0-9._~+/-]{16,}=*"), r"\1[redacted bearer token]"),
    # The pin of a cluster's CA; the digest of an image (image@sha256:...) is none and stays.
    (re.compile(r"(?<![@0-9A-Za-z])sha256:[0-9a-fA-F]{64}(?![0-9A-Za-z])"), "[redacted ca hash]"),
    (re.compile(r"(?<!@sha256:)(?<![0-9A-Za-z])[0-9a-fA-F]{64}(?![0-9A-Za-z])"), "[redacted key]"),
    # A bootstrap token; letters only inside a longer dotted name (node01.kubernetesexample.com) are a host.
    (
        re.compile(r"(?<![0-9A-Za-z])(?!.{6}\.[a-z]{16}\.[a-z])[a-z0-9]{6}\.[a-z0-9]{16}(?![0-9A-Za-z])"),
        "[redacted token]",
    ),
)


def redact(text: str, *secrets: str) -> str:
    """Return the text without private keys, certificate keys, bootstrap and web tokens, CA pins.

    ``secrets`` are texts to remove wherever they stand, for those that are known. Doing it twice changes nothing.
    """
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "[redacted]")
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    return _without_key_tails(text)


def _without_key_tails(text: str) -> str:
    """Remove private keys whose beginning was cut off, as the last lines of a log may hold."""
    if _PEM_END.search(text) is None:
        return text
    return _without_tails_between(_without_tails_between(text, "\\n"), "\n")


def _without_tails_between(text: str, separator: str) -> str:
    kept: list[str] = []
    for piece in text.split(separator):
        match = _PEM_END.match(piece.lstrip())
        if match is None:
            kept.append(piece)
            continue
        while kept and _BASE64_LINE.fullmatch(kept[-1]):
            kept.pop()
        kept.append("[redacted private key]" + piece.lstrip()[match.end() :])
    return separator.join(kept)
