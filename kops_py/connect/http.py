"""One question to a URL of the operator."""

from __future__ import annotations

from dataclasses import dataclass

from kops_py.model.errors import HostError, UnreachableError

_MOST_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a URL answered; ``text`` is at most the first 256 KiB of the body."""

    status: int
    text: str


def ask_url(url: str, *, ca_file: str | None, insecure: bool, timeout_s: float) -> HttpAnswer:
    """GET a URL once, without following redirects and without a proxy; raises UnreachableError, HostError.

    ``ca_file`` holds the authorities to trust in place of the system's; ``insecure`` trusts whatever answers.
    """
    import ssl

    import urllib3

    context = ssl.create_default_context()
    try:
        if ca_file is not None:
            context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:  # ssl.SSLError is one
        raise HostError("the file of authorities cannot be used", where=ca_file or "", why=str(error)) from None
    if insecure:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib3.PoolManager(ssl_context=context, retries=False, timeout=urllib3.Timeout(total=timeout_s)) as pool:
            answer = pool.request("GET", url, redirect=False, preload_content=False)
            body = answer.read(_MOST_BYTES, decode_content=True)
            answer.close()
            return HttpAnswer(answer.status, body.decode("utf-8", "replace"))
    except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise UnreachableError("no answer", where=url, why=_cause(error)) from None


def _cause(error: BaseException) -> str:
    """Return what went wrong underneath, without the library's own names."""
    reason = getattr(error, "reason", None)
    inner = reason if isinstance(reason, BaseException) else error
    text = str(inner.args[-1]) if inner.args else type(inner).__name__
    return text.partition(">: ")[2] or text
