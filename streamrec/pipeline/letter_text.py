"""Show a stranger's bytes as text that moves no cursor, colours no terminal and turns no line round; pure."""

from __future__ import annotations

# A character of UTF-8 has four bytes at most.
_LONGEST = 4


def printable(text: str, keep: str = "") -> str:
    r"""Return a text whose unprintable characters are escaped, but for those of ``keep``.

    Example:
        >>> printable("a\x1b[2J\u202eb")
        'a\\x1b[2J\\u202eb'
    """
    return "".join(char if char.isprintable() or char in keep else char.encode("unicode_escape").decode() for char in text)


def shown(data: bytes) -> tuple[str, str]:
    r"""Return the form, ``text`` or ``hex``, and the bytes in it.

    Example:
        >>> shown(b"a\x00"), shown(b"\xff\x01")
        (('text', 'a\\x00'), ('hex', 'ff 01'))
    """
    try:
        return "text", printable(data.decode(), keep="\n\t")
    except UnicodeDecodeError:
        return "hex", data.hex(" ")


def excerpt(data: bytes, most: int) -> tuple[str, str]:
    """Return what `shown` returns of the first ``most`` bytes; a character that is cut is left out."""
    piece = data[:most]
    if len(data) > most:
        try:
            piece.decode()
        except UnicodeDecodeError as error:
            if error.start > most - _LONGEST:
                piece = piece[: error.start]
    return shown(piece)
