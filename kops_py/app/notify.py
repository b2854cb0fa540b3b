"""Tells a webhook when backups fail: silence would be taken for success."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from kops_py.app.session import Emit
from kops_py.model.errors import CancelledError, ConfigError, KopsError, LockedError
from kops_py.model.event import Note
from kops_py.model.spec import ClusterSpec

_TIMEOUT_S = 15.0


class Outcome:
    """Holds the failure of what is watched."""

    def __init__(self) -> None:
        self.error: KopsError | None = None

    def failed(self, error: KopsError) -> None:
        """Note a failure that is not raised."""
        self.error = error


@contextmanager
def on_failure(spec: ClusterSpec, what: str, emit: Emit) -> Iterator[Outcome]:
    """Send a message when what runs inside fails, raised or noted.

    An interruption is no failure, nor is another backup that is being made.
    """
    outcome = Outcome()
    try:
        yield outcome
    except KopsError as error:
        outcome.failed(error)
        raise
    finally:
        if outcome.error is not None and not isinstance(outcome.error, CancelledError | LockedError):
            send(spec, {"what": what, "error": outcome.error.to_json(), "text": f"{what}: {outcome.error}"}, emit)


def send(spec: ClusterSpec, body: dict[str, object], emit: Emit) -> bool:
    """POST a JSON message to the webhook of cluster.yaml; a failure of that is only told. False when it failed."""
    import urllib.error
    import urllib.request

    reference = spec.backup.webhook if spec.backup else None
    if reference is None:
        return True
    from kops_py.config.secrets import resolve

    try:
        url = reference if isinstance(reference, str) else resolve(reference)
        if not url.startswith(("https://", "http://")):
            raise ConfigError("the webhook is no URL", where="backup.webhook")
        message = {"source": "kops-py", "cluster": spec.name, "at": datetime.now(UTC).isoformat(), **body}
        request = urllib.request.Request(  # noqa: S310 - scheme checked above
            url, data=json.dumps(message).encode(), headers={"Content-Type": "application/json"}, method="POST"
        )
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S):  # noqa: S310
            return True
    except (OSError, ValueError, KopsError) as error:
        # The URL may hold a secret: only the kind of the failure is told.
        reason = str(error) if isinstance(error, KopsError) else _reason(error)
        emit(Note(message=f"the webhook could not be told: {reason}"))
        return False


def _reason(error: Exception) -> str:
    import urllib.error

    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP status {error.code}"
    if isinstance(error, urllib.error.URLError):
        return type(error.reason).__name__ if isinstance(error.reason, Exception) else "no answer"
    return type(error).__name__
