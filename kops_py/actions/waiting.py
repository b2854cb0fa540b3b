"""Deadlines that say what was waited for."""

from __future__ import annotations

from kops_py.engine.run import StepContext
from kops_py.model.errors import DeadlineError


def remaining_s(ctx: StepContext, lacking: str, *, hint: str = "run the same command again") -> float:
    """Return the seconds left; raises CancelledError, and DeadlineError that names what is still lacking."""
    try:
        return ctx.remaining_s()
    except DeadlineError as error:
        raise DeadlineError(error.what, where=error.where, why=lacking, hint=hint) from error
