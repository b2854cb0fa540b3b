"""The secrets a join needs: a bootstrap token and the key of the uploaded certificates.

They are made here, live in this process and in the cluster for a short time, and are taken back at the end. A run
that was killed forgets them; the next one makes new ones and removes the old.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from kops_py.connect.base import JsonObject, KubeApi
from kops_py.model.errors import KubeError
from kops_py.observe.cluster import MANAGED_BY, UPLOADED_CERTIFICATES
from kops_py.tools.kubeadm import TOKEN_DESCRIPTION, new_token, token_secret_name

TOKEN_TTL_S = 1800.0
CERTIFICATES_TTL_S = 5400.0
"""kubeadm's controller drops uploaded certificates after two hours; after this time they are uploaded anew."""

SECRETS_PATH = "/api/v1/namespaces/kube-system/secrets"


@dataclass(slots=True)
class JoinSecrets:
    """Holds the run's token and certificate key; thread-safe, since workers join side by side."""

    _token: str = field(default="", repr=False)
    _token_made_at: float = 0.0
    _certificate_key: str = field(default="", repr=False)
    _certificates_made_at: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def remember(self, *, token: str, certificate_key: str) -> None:
        """Keep what kubeadm init was given, so that the first joins need nothing new."""
        now = time.monotonic()
        with self._lock:
            self._token, self._token_made_at = token, now
            self._certificate_key, self._certificates_made_at = certificate_key, now if certificate_key else 0.0

    def token(self, api: KubeApi) -> str:
        """Return a token with at least half its life left, making one in the cluster when there is none."""
        with self._lock:
            if self._token and time.monotonic() - self._token_made_at < TOKEN_TTL_S / 2:
                return self._token
            token = new_token()
            api.create(SECRETS_PATH, _token_secret(token))
            self._token, self._token_made_at = token, time.monotonic()
            return token

    def certificate_key(self) -> str:
        """Return the key of the certificates uploaded in this run; empty when they must be uploaded anew."""
        with self._lock:
            if self._certificate_key and time.monotonic() - self._certificates_made_at < CERTIFICATES_TTL_S:
                return self._certificate_key
            return ""

    def keep_certificate_key(self, key: str) -> None:
        """Keep the key of a fresh upload."""
        with self._lock:
            self._certificate_key, self._certificates_made_at = key, time.monotonic()

    def forget(self) -> None:
        """Drop everything."""
        with self._lock:
            self._token = self._certificate_key = ""


def _token_secret(token: str) -> JsonObject:
    """Return the Secret that makes a bootstrap token known, as kubeadm token create writes it."""
    token_id, _, token_secret = token.partition(".")
    expires = datetime.now(UTC) + timedelta(seconds=TOKEN_TTL_S)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "bootstrap.kubernetes.io/token",
        "metadata": {"name": token_secret_name(token), "namespace": "kube-system", "labels": MANAGED_BY},
        "stringData": {
            "token-id": token_id,
            "token-secret": token_secret,
            "description": TOKEN_DESCRIPTION,
            "expiration": expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        },
    }


def mark_uploaded_certificates(api: KubeApi) -> None:
    """Label the uploaded certificates and the token that limits their life as ours; nothing when there are none.

    So a later run knows that it may remove them. The token needs a label of its own, because a fresh upload leaves
    the token of the one before without an owner: kubeadm makes a new one each time.
    """
    secret = api.get_or_none(f"{SECRETS_PATH}/{UPLOADED_CERTIFICATES}")
    if secret is None:
        return
    for name in (*_owner_tokens(secret), UPLOADED_CERTIFICATES):
        try:
            api.patch(f"{SECRETS_PATH}/{name}", {"metadata": {"labels": MANAGED_BY}})
        except KubeError as error:
            if error.status != 404:
                raise


def revoke(api: KubeApi, names: tuple[str, ...]) -> None:
    """Delete these join secrets, and with the certificates the token that only limits their life."""
    for name in names:
        if name == UPLOADED_CERTIFICATES:
            for owner in _owner_tokens(api.get_or_none(f"{SECRETS_PATH}/{name}") or {}):
                _delete(api, owner)
        _delete(api, name)


def _delete(api: KubeApi, name: str) -> None:
    try:
        api.delete(f"{SECRETS_PATH}/{name}")
    except KubeError as error:
        if error.status != 404:
            raise


def _owner_tokens(secret: JsonObject) -> list[str]:
    owners = secret.get("metadata", {}).get("ownerReferences", [])
    names = [str(o.get("name", "")) for o in owners if o.get("kind") == "Secret"]
    return [n for n in names if n.startswith("bootstrap-token-")]
