"""Names of the contract: tokens of subjects, and job ids."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,64}")


def token(text: str, what: str) -> str:
    """Refuse what would be more or less than one token of a NATS subject."""
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{what} {text!r} is not a token: 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'")
    return text


def job_id(text: str) -> str:
    """Refuse what a header cannot carry as it is."""
    if not 1 <= len(text.encode()) <= 256 or text != text.strip() or not text.isprintable():
        raise ValueError(f"job id {text[:80]!r} has not 1 to 256 printable bytes without spaces around them")
    return text
