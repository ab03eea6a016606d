"""Names as they can be printed: a file's may hold what no terminal should obey, or be no text at all."""

import json
import sys
import unicodedata
from typing import Any


def take_any_name() -> None:
    """Have standard output and error write what their encoding lacks as ``\\xe9`` or ``\\udcff``, and never fail."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def printable(text: str) -> str:
    r"""The text in one line, with its control characters escaped.

    Examples
    --------
    >>> print(printable("red \x1b[31m"))
    red \x1b[31m
    """
    return "".join(
        letter.encode("unicode_escape").decode() if unicodedata.category(letter) in ("Cc", "Zl", "Zp") else letter
        for letter in text
    )


def is_text(name: str) -> bool:
    """Whether a file's name is text: Python has surrogates for bytes that are not UTF-8."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def json_text(content: Any, **options: Any) -> str:
    """JSON for standard output: as people read it, or in ASCII where the output is not in UTF-8."""
    utf8 = (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "") == "utf8"
    return json.dumps(content, ensure_ascii=not utf8, **options)
