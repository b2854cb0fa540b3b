"""What went wrong between kops-py and an API server, as errors a person can act on."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from kops_py.model.errors import KubeError

# OpenSSL's verification results (x509_vfy.h)
_NOT_YET_VALID = 9
_EXPIRED = 10
_UNKNOWN_AUTHORITY = frozenset({2, 7, 18, 19, 20, 21, 24, 27, 30})
_WRONG_NAME = frozenset({62, 64})

_ETCD_HICCUPS = ("etcdserver: leader changed", "etcdserver: request timed out", "etcdserver: no leader")


class Delivery(StrEnum):
    """What is known about a request that got no answer."""

    NOT_SENT = "not-sent"
    """No connection was made; repeating it is safe for any verb."""
    UNKNOWN = "unknown"
    """It may have been carried out."""
    FATAL = "fatal"
    """Trying again cannot help (a certificate, a name that does not exist)."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without an answer, and whether it is worth another attempt."""

    delivery: Delivery
    error: KubeError


def status_error(method: str, path: str, status: int, body: bytes, *, server: str) -> KubeError:
    """Return the error for an HTTP answer that is not a success; reads the Status object when there is one."""
    reason, message = _read_status(body)
    causes, retry_after_s = _read_details(body)
    what = f"the Kubernetes API answered {status} {reason}".rstrip() + f" to {_verb(method)}"
    return KubeError(
        what,
        where=path,
        why=message or "the answer held no message",
        hint=_status_hint(status, server),
        status=status,
        reason=reason,
        causes=causes,
        retry_after_s=retry_after_s,
    )


def is_passing(status: int, body: bytes) -> bool:
    """Whether an answer comes from a server that restarts, is overloaded or waits for etcd."""
    if status in {429, 502, 503, 504}:
        return True
    return status == 500 and any(text in _read_status(body)[1] for text in _ETCD_HICCUPS)


def transport_failure(method: str, path: str, error: Exception, *, server: str) -> Failure:
    """Return what a connection's failure means: whether the request was sent, and the error to show."""
    chain = list(_causes(error))
    names = {type(cause).__name__ for cause in chain}
    certificate = next((c for c in chain if isinstance(c, ssl.SSLCertVerificationError)), None)
    if certificate is not None:
        return Failure(Delivery.FATAL, _certificate_error(path, certificate, server))
    if "NameResolutionError" in names or any(_is_unknown_name(c) for c in chain):
        # a name server that does not answer in time (EAI_AGAIN) may do so in a moment; an unknown name never
        delivery = Delivery.FATAL if any(_is_unknown_name(c) for c in chain) else Delivery.NOT_SENT
        return Failure(
            delivery,
            _no_answer(path, server, "the name does not resolve here", "check the endpoint's DNS record or /etc/hosts"),
        )
    if any(isinstance(c, ssl.SSLError) and not _is_cut_handshake(c) for c in chain):
        return Failure(Delivery.FATAL, _tls_error(path, chain, server))
    if any(isinstance(c, ConnectionRefusedError) for c in chain):
        hint = "check that kube-apiserver runs on the control planes (and the load balancer in front of them)"
        return Failure(Delivery.NOT_SENT, _no_answer(path, server, "connection refused", hint))
    if "ConnectTimeoutError" in names:
        hint = "check routes and firewalls between this machine and the endpoint"
        return Failure(Delivery.NOT_SENT, _no_answer(path, server, "no connection within the time allowed", hint))
    if "ReadTimeoutError" in names or any(isinstance(c, TimeoutError) for c in chain):
        hint = "the server accepts connections but does not answer: look at kube-apiserver and etcd on its host"
        why = f"no answer to {_verb(method)} within the time allowed"
        return Failure(Delivery.UNKNOWN, _no_answer(path, server, why, hint))
    why = str(chain[-1]) or type(chain[-1]).__name__
    delivery = Delivery.NOT_SENT if "NewConnectionError" in names else Delivery.UNKNOWN
    hint = "check that the endpoint is a Kubernetes API server and runs; kops-py preflight shows what listens"
    return Failure(delivery, _no_answer(path, server, why, hint))


def _no_answer(path: str, server: str, why: str, hint: str) -> KubeError:
    return KubeError(f"the Kubernetes API at {server} does not answer", where=path, why=why, hint=hint)


def _certificate_error(path: str, error: ssl.SSLCertVerificationError, server: str) -> KubeError:
    code = error.verify_code
    if code == _EXPIRED:
        hint = "renew it on the control planes: kubeadm certs renew apiserver, then restart kube-apiserver"
        why = "its certificate has expired (x509: certificate has expired)"
    elif code == _NOT_YET_VALID:
        hint = "compare this machine's clock with the control plane's"
        why = "its certificate is not valid yet (x509: not yet valid)"
    elif code in _WRONG_NAME:
        hint = (
            "add the name to apiServer.certSANs and renew the certificate, or use a name that is in it "
            "(kubeconfig: tls-server-name)"
        )
        why = f"its certificate is for other names (x509: {error.verify_message})"
    elif code in _UNKNOWN_AUTHORITY:
        hint = (
            "the kubeconfig belongs to another cluster or an earlier life of this one, or something in "
            "between answers: fetch it again with kops-py kubeconfig"
        )
        why = f"its certificate was signed by an unknown authority (x509: {error.verify_message})"
    else:
        hint, why = "look at the certificate with openssl s_client", f"x509: {error.verify_message}"
    return KubeError(f"the Kubernetes API at {server} cannot be trusted", where=path, why=why, hint=hint)


def _tls_error(path: str, chain: list[BaseException], server: str) -> KubeError:
    text = next(str(c) for c in chain if isinstance(c, ssl.SSLError))
    return KubeError(
        f"no TLS connection to the Kubernetes API at {server}",
        where=path,
        why=text,
        hint="check that the endpoint's port is the API server's and speaks TLS, and the kubeconfig's certificate",
    )


def _status_hint(status: int, server: str) -> str:
    if status == 401:
        return (
            "the server does not accept these credentials: the client certificate or token may have expired or "
            "belong to another cluster; fetch it again with kops-py kubeconfig"
        )
    if status == 403:
        return "this user may not do that; use the cluster's administrator kubeconfig (kops-py kubeconfig)"
    if status in {500, 502, 503, 504}:
        return f"look at kube-apiserver and etcd behind {server}; the same command continues once they answer"
    if status == 429:
        return "the server is overloaded or a disruption budget refuses; try again in a moment"
    return ""


def _verb(method: str) -> str:
    words = {"GET": "a read", "POST": "a create", "PUT": "a replace", "PATCH": "a patch", "DELETE": "a delete"}
    return words.get(method, method)


def _read_status(body: bytes) -> tuple[str, str]:
    """Return reason and message of a Status object; for anything else the first line of the text."""
    try:
        status = json.loads(body)
    except ValueError:
        first_line = body.decode("utf-8", "replace").strip().partition("\n")[0]
        return "", first_line[:300]
    if not isinstance(status, dict):
        return "", ""
    return str(status.get("reason") or ""), str(status.get("message") or "")


def _read_details(body: bytes) -> tuple[tuple[tuple[str, str], ...], float]:
    """Return the causes (reason, message) and retryAfterSeconds of a Status object, as far as there are any."""
    try:
        details = json.loads(body)["details"]
        causes = tuple((str(c.get("reason") or ""), str(c.get("message") or "")) for c in details.get("causes") or ())
        return causes, float(details.get("retryAfterSeconds") or 0)
    except (ValueError, KeyError, TypeError, AttributeError):
        return (), 0.0


def _is_unknown_name(error: BaseException) -> bool:
    return isinstance(error, socket.gaierror) and error.errno in {socket.EAI_NONAME, socket.EAI_FAIL}


def _is_cut_handshake(error: ssl.SSLError) -> bool:
    """Whether the other side went away in the middle of TLS, as a restarting server or its balancer does."""
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)):
        return True
    return "EOF" in str(error) or "handshake operation timed out" in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and everything it wraps, outermost first; urllib3 hides causes in args and ``reason``."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        queue.append(getattr(current, "reason", None) if _is_error(getattr(current, "reason", None)) else None)
        queue.extend(arg for arg in current.args if _is_error(arg))
        queue.append(current.__cause__ or current.__context__)


def _is_error(value: object) -> bool:
    return isinstance(value, BaseException)
