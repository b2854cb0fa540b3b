"""Text from elsewhere made safe for a terminal.

What a host, a module or an API server said is shown as it is, but for what a terminal would obey: escape
sequences, control characters, and characters that turn the direction of a line around.
"""

from __future__ import annotations

import re
import unicodedata

# CSI, then the strings that end with BEL or ST (OSC, DCS, SOS, PM, APC) or with the line, then two-character
# sequences; with 7-bit and 8-bit introducers.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x1b\\|\x9c)?"
    r"|\x1b[ -/]*[0-~]?"
)
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_DROPPED = frozenset({"Cc", "Cs", "Zl", "Zp"})


def clean(text: str) -> str:
    """Return the text without escape sequences and control characters; line feeds stay, tabs become blanks."""
    if text.isascii() and text.isprintable():
        return text
    text = _SEQUENCES.sub("", text.replace("\r\n", "\n"))
    return "".join(_kept(character) for character in text)


def clean_line(text: str) -> str:
    """Return the text as one clean line."""
    return " ".join(clean(text).split("\n")).strip()


def _kept(character: str) -> str:
    if character == "\n":
        return character
    if character in "\t\r\v\f":
        return " "
    if character in _BIDI or unicodedata.category(character) in _DROPPED:
        return ""
    return character
