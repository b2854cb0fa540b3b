"""References to secrets; the secrets themselves are read where they are used (``config/secrets.py``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SecretRef:
    """A reference to a secret, never the secret: ``env:NAME``, ``file:PATH`` or ``cmd:COMMAND``."""

    kind: str
    target: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}"
