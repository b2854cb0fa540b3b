"""Names and addresses as Kubernetes and Ansible take them: pure functions that raise ValueError."""

from __future__ import annotations

import ipaddress
import itertools
import re
import string
from urllib.parse import urlsplit

from kops_py.model.spec import Endpoint, Network, SecretRef, Taint

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_LABEL_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?", re.ASCII)
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_PATTERN = re.compile(r"(?P<body>(?:[^\[\]:\s]|\[[^\[\]]*\])+)(?::(?P<port>\d{1,5}))?")
_RANGE = re.compile(r"\[([0-9]+|[A-Za-z]):([0-9]+|[A-Za-z])(?::([0-9]{1,6}))?\]")
_MOST_HOSTS = 10_000
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def is_dns_label(text: str) -> bool:
    """Whether this is a DNS-1123 label: lower-case letters, digits and -, at most 63."""
    return _LABEL.fullmatch(text) is not None


def is_dns_name(text: str) -> bool:
    """Whether this is a DNS-1123 subdomain, the form of a node's name."""
    return len(text) <= 253 and all(is_dns_label(part) for part in text.split("."))


def is_host_name(text: str) -> bool:
    """Whether ssh can take this as a host name or an alias of ssh_config."""
    return _HOST_NAME.fullmatch(text) is not None


def parse_address(text: str) -> Address | None:
    """Return the IP address, or None when the text is not one (a zone is not part of an address)."""
    if "%" in text:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def parse_network(text: str) -> Network:
    """Read ``10.244.0.0/16``; raises ValueError."""
    if "/" not in text:
        raise ValueError("a network has a prefix length, as in 10.244.0.0/16")
    try:
        loose = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError("this is not a network such as 10.244.0.0/16") from None
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(f"host bits are set, the network is {loose}") from None


def parse_endpoint(text: str, default_port: int = 6443) -> Endpoint:
    """Read ``host``, ``host:port``, ``[v6]:port`` or a bare IPv6 address; raises ValueError."""
    if "://" in text:
        raise ValueError("an endpoint is host:port, without a scheme")
    host, port_text = text, ""
    if text.startswith("["):
        host, closing, rest = text[1:].partition("]")
        if not closing or (rest and not rest.startswith(":")) or rest == ":" or ":" not in host:
            raise ValueError("an IPv6 endpoint has the form [fd00::10]:6443")
        port_text = rest[1:]
    elif text.count(":") == 1:
        host, _, port_text = text.partition(":")
        if not port_text:
            raise ValueError("the port is missing behind the colon")
    address = parse_address(host)
    if (":" in host and address is None) or (address is None and not is_dns_name(host)):
        raise ValueError("the host must be an IP address or a lower-case DNS name")
    if address is None and all(part.isdigit() for part in host.split(".")):
        raise ValueError("the host must be an IP address or a lower-case DNS name")
    return Endpoint(str(address) if address else host, parse_port(port_text) if port_text else default_port)


def parse_port(value: object) -> int:
    """Read a TCP port; raises ValueError."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise ValueError("a port is a number from 1 to 65535")
    return int(text)


def check_url(text: str, schemes: tuple[str, ...] = ("http", "https")) -> None:
    """Raise ValueError unless this is a URL of one of these schemes with a host (or a path, for ``file``)."""
    allowed = " or ".join(f"{scheme}://" for scheme in schemes)
    if any(c.isspace() or not c.isprintable() for c in text):
        raise ValueError("a URL has no blanks")
    try:
        parts = urlsplit(text)
        _ = parts.port
        whole = parts.path.startswith("/") if parts.scheme == "file" else bool(parts.hostname)
    except ValueError:
        whole, parts = False, urlsplit("")
    if not whole or parts.scheme not in schemes:
        raise ValueError(f"this is not a URL that begins with {allowed}")


def parse_secret(text: str) -> SecretRef:
    """Read a reference to a secret; raises ValueError whose message never holds the text."""
    kind, colon, target = text.partition(":")
    target = target.strip()
    if not colon or kind not in ("env", "file", "cmd"):
        raise ValueError("a secret is given by reference only")
    if not target:
        raise ValueError(f"nothing stands behind {kind}:")
    if kind == "env" and _ENVIRONMENT_NAME.fullmatch(target) is None:
        raise ValueError("env: takes the name of an environment variable")
    return SecretRef(kind, target)


def check_label(key: str, value: str) -> None:
    """Raise ValueError unless key and value are a Kubernetes label."""
    check_label_key(key)
    if value and _LABEL_NAME.fullmatch(value) is None:
        raise ValueError("a label's value has letters, digits, - _ . and at most 63 characters")


def check_label_key(key: str) -> None:
    """Raise ValueError unless this is the key of a label or taint: ``name`` or ``dns.domain/name``."""
    prefix, slash, name = key.rpartition("/")
    if (slash and not is_dns_name(prefix)) or _LABEL_NAME.fullmatch(name) is None:
        raise ValueError("a key has the form name or example.com/name")


def parse_taint(text: str) -> Taint:
    """Read ``key=value:Effect`` or ``key:Effect``; raises ValueError."""
    head, colon, effect = text.rpartition(":")
    key, _, value = head.partition("=")
    if not colon or effect not in _EFFECTS:
        raise ValueError(f"a taint has the form key=value:Effect, Effect one of {', '.join(_EFFECTS)}")
    check_label(key, value)
    return Taint(key, value, effect)


def expand_host_pattern(text: str) -> tuple[list[str], int | None]:
    """Return the host names and the port of an inventory entry such as ``node[01:10]:2222``; raises ValueError."""
    if not text.strip() or text.strip() == "---":
        raise ValueError("a host name is missing")
    if parse_address(text.strip("[]")) is not None and ":" in text:
        return [text.strip("[]")], None
    match = _PATTERN.fullmatch(text)
    if match is None:
        raise ValueError("this is not a host name or a pattern such as node[01:10]")
    port = parse_port(match["port"]) if match["port"] else None
    pieces: list[list[str]] = []
    total, end = 1, 0
    body = match["body"]
    for found in re.finditer(r"\[[^\]]*\]", body):
        pieces += [[body[end : found.start()]], _expand_range(found[0])]
        total *= len(pieces[-1])
        if total > _MOST_HOSTS:
            raise ValueError(f"the pattern stands for more than {_MOST_HOSTS} hosts")
        end = found.end()
    pieces.append([body[end:]])
    return ["".join(parts) for parts in itertools.product(*pieces)], port


def _expand_range(text: str) -> list[str]:
    match = _RANGE.fullmatch(text)
    if match is None or match[1].isdigit() != match[2].isdigit():
        raise ValueError("a range has the form [01:10] or [a:f]")
    step = int(match[3] or 1)
    if step == 0:
        raise ValueError("a range cannot have the step 0")
    if not match[1].isdigit():
        letters = string.ascii_letters
        first, last = letters.index(match[1]), letters.index(match[2])
        names = list(letters[first : last + 1 : step])
    else:
        if len(match[1]) > 9 or len(match[2]) > 9:
            raise ValueError(f"the pattern stands for more than {_MOST_HOSTS} hosts")
        first, last = int(match[1]), int(match[2])
        if (last - first) // step >= _MOST_HOSTS:
            raise ValueError(f"the pattern stands for more than {_MOST_HOSTS} hosts")
        width = len(match[1]) if match[1].startswith("0") else 0
        names = [str(number).zfill(width) for number in range(first, last + 1, step)]
    if not names:
        raise ValueError("the range is empty, its end is before its beginning")
    return names
