"""Steps as the engine gives them."""

from __future__ import annotations

import time

from kops_py.connect.base import Cancel
from kops_py.engine.run import StepContext
from kops_py.model.plan import Action, Step


def step(action: Action, *, timeout_s: float = 60) -> StepContext:
    """Return the context of a step that begins now."""
    until = time.monotonic() + timeout_s
    return StepContext(Step("step", "", "a step", action, timeout_s), Cancel(), lambda _: None, until)
