"""Certificates of an external etcd on their way to hosts: made here in memory, sent over SSH, kept on no disk here."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path

from kops_py.actions.deps import Deps
from kops_py.connect.base import Host
from kops_py.engine.run import StepContext
from kops_py.model.actions import IssueEtcdCertificates, PlaceEtcdClient
from kops_py.model.errors import ConfigError, EtcdError, KopsError
from kops_py.model.spec import ExternalEtcd, GivenCa
from kops_py.tools.etcd_pki import (
    API_SERVER_CLIENT,
    PAIRS,
    Pair,
    as_kubeadm_reads,
    make_authority,
    make_certificate,
    names_of,
)
from kops_py.tools.kubeadm import ETCD_CA, ETCD_CLIENT_CERT, ETCD_CLIENT_KEY

MARKER = "/etc/kops-py/etcd-pki.json"
_TIMEOUT_S = 30.0

# Prints both halves or nothing. A key without its certificate is one that was never used.
_READ_AUTHORITY = 'cd "$1" && [ -s ca.crt ] && [ -s ca.key ] && cat ca.crt ca.key'

_MAKE_FOLDER = 'install -d -m 0755 "$@"'

# The group is there once the package is installed; before that the role sets it.
_PUT_IN_PLACE = """
cd "$1" || exit 1; shift
group=root mode=0600
if getent group etcd >/dev/null; then group=etcd mode=0640; fi
for name in "$@"; do
    chown "root:$group" "$name.key.new" && chmod "$mode" "$name.key.new" && chmod 0644 "$name.crt.new" || exit 1
done
for name in "$@"; do mv -f "$name.key.new" "$name.key" && mv -f "$name.crt.new" "$name.crt" || exit 1; done
"""


def issue_certificates(deps: Deps, action: IssueEtcdCertificates, ctx: StepContext) -> None:
    """Make all certificates of one member, and the authority when no host of the group has one.

    Raises EtcdError when a host that may hold the authority cannot be asked.
    """
    etcd = _external(deps)
    host, wanted = deps.fleet.host(action.host), deps.spec.host(action.host)
    _run(host, "sh", "-c", _MAKE_FOLDER, "sh", str(Path(etcd.pki).parent), etcd.pki)
    authority = _authority(deps, etcd, host, ctx)
    host.write_file(f"{etcd.pki}/ca.crt", authority.cert, mode=0o644)
    for name in PAIRS:
        is_client = name == "healthcheck-client"
        pair = _certificate(authority, wanted.member_name, () if is_client else names_of(wanted))
        host.write_file(f"{etcd.pki}/{name}.crt.new", pair.cert, mode=0o644)
        host.write_file(f"{etcd.pki}/{name}.key.new", pair.key, mode=0o600)
    _run(host, "sh", "-c", _PUT_IN_PLACE, "sh", etcd.pki, *PAIRS)
    host.write_file(MARKER, (json.dumps({"digest": action.digest}) + "\n").encode(), mode=0o600)


def place_client(deps: Deps, action: PlaceEtcdClient, ctx: StepContext) -> None:
    """Give a control plane the authority, a client certificate and its key; raises EtcdError, ConfigError."""
    given = deps.spec.etcd.given
    if given is not None:
        ca, pair = _read(given.ca), Pair(_read(given.cert), _readable(given.key))
    else:
        etcd = _external(deps)
        authority = _given_authority(deps.spec.etcd.ca) or _found_authority(deps, etcd)
        if authority is None:
            raise EtcdError(
                "no host of the group etcd holds the authority of its certificates",
                where=action.node,
                hint="run the same command without --limit",
            )
        ca, pair = authority.cert, _certificate(authority, API_SERVER_CLIENT, ())
    ctx.progress("placing the certificate")
    _place(deps.fleet.host(action.node), ca, pair)


def ensure_client(deps: Deps, node: str, ctx: StepContext) -> None:
    """Place the API server's certificate for etcd again where kubeadm reset took it away; raises as place_client."""
    if deps.spec.external is None:
        return
    host = deps.fleet.host(node)
    there = host.run(
        ("sh", "-c", 'for f in "$@"; do [ -s "$f" ] || exit 1; done', "sh", ETCD_CA, ETCD_CLIENT_CERT, ETCD_CLIENT_KEY),
        sudo=True,
        check=False,
    )
    if not there.ok and (deps.spec.etcd.given or deps.spec.etcd.ca or _found_authority(deps, _external(deps))):
        place_client(deps, PlaceEtcdClient(node), ctx)


def _place(host: Host, ca: bytes, pair: Pair) -> None:
    folder = str(Path(ETCD_CA).parent)
    _run(host, "sh", "-c", _MAKE_FOLDER, "sh", "/etc/kubernetes", str(Path(folder).parent), folder)
    host.write_file(ETCD_CA, ca, mode=0o644)
    host.write_file(ETCD_CLIENT_KEY, pair.key, mode=0o600)
    host.write_file(ETCD_CLIENT_CERT, pair.cert, mode=0o644)


def _authority(deps: Deps, etcd: ExternalEtcd, host: Host, ctx: StepContext) -> Pair:
    """Return the authority: the given one, that of the hosts, or a new one; it lies on ``host`` afterwards."""
    given = _given_authority(deps.spec.etcd.ca)
    if given is not None:
        return given
    found = _found_authority(deps, etcd, all_must_answer=True)
    if found is None:
        ctx.progress("making the authority of etcd's certificates")
        found = make_authority()
    host.write_file(f"{etcd.pki}/ca.key", found.key, mode=0o600)
    host.write_file(f"{etcd.pki}/ca.crt", found.cert, mode=0o644)
    return found


def _found_authority(deps: Deps, etcd: ExternalEtcd, *, all_must_answer: bool = False) -> Pair | None:
    """Return the authority that a host of the group holds; a second one must never be made beside it."""

    def read(host: Host) -> bytes:
        argv = ("sh", "-c", _READ_AUTHORITY, "sh", etcd.pki)
        return host.run(argv, sudo=True, check=False, timeout_s=_TIMEOUT_S, cancel=deps.cancel).stdout

    answers: Mapping[str, bytes | KopsError] = deps.fleet.map(etcd.hosts, read, cancel=deps.cancel)
    for answer in answers.values():
        if isinstance(answer, bytes) and answer.strip():
            cert, mark, key = answer.partition(b"-----END CERTIFICATE-----\n")
            return Pair(cert + mark, key)
    for name, answer in answers.items():
        if isinstance(answer, KopsError) and all_must_answer:
            raise EtcdError(
                "the host cannot be asked whether it holds the authority of etcd's certificates",
                where=name,
                why=str(answer),
                hint="a second authority would split the cluster: bring it back, or take it out of the group etcd",
            )
    return None


def _given_authority(given: GivenCa | None) -> Pair | None:
    return None if given is None else Pair(_read(given.cert), read_private(given.key))


def _certificate(authority: Pair, name: str, names: tuple[str, ...]) -> Pair:
    try:
        return make_certificate(authority, name, names)
    except (ValueError, TypeError) as error:  # TypeError: the key is encrypted
        raise EtcdError("the authority of etcd's certificates cannot be used", why=str(error)) from None


def _readable(path: Path) -> bytes:
    try:
        return as_kubeadm_reads(read_private(path))
    except (ValueError, TypeError) as error:  # TypeError: the key is encrypted
        raise ConfigError("the key cannot be used", where=str(path), why=str(error)) from None


def read_private(path: Path) -> bytes:
    """Return a key file's content; raises ConfigError when it cannot be read, or others on this machine can."""
    try:
        if path.stat().st_mode & (stat.S_IRWXO):
            raise ConfigError("others on this machine can read the key", where=str(path), hint=f"chmod 600 {path}")
    except OSError as error:
        raise ConfigError("the file cannot be read", where=str(path), why=error.strerror or str(error)) from None
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError("the file cannot be read", where=str(path), why=error.strerror or str(error)) from None


def _external(deps: Deps) -> ExternalEtcd:
    etcd = deps.spec.external
    if etcd is None:
        raise TypeError("this step is for an external etcd")
    return etcd


def _run(host: Host, *argv: str) -> None:
    host.run(argv, sudo=True, timeout_s=_TIMEOUT_S)
