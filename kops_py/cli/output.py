"""Standard output of commands, which may be a pipe whose reader has gone."""

from __future__ import annotations

import json
import os
import select
import sys
from typing import Any


def say(text: str) -> None:
    """Print to standard output; a reader that went away (``| head``) changes nothing about the exit code."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        mute_stdout()


def print_json(value: Any) -> None:
    """Print one JSON document on standard output, see say."""
    say(json.dumps(value, indent=2))


def mute_stdout() -> None:
    """Let what is still to be written go nowhere, so that nothing fails again when the program ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def stdout_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0))
