"""Text that strangers wrote, for a terminal."""

import unicodedata

# Control characters move the cursor, set the title or type for the reader; those of direction
# show a text as another one. (Cf has letters' joiners too, which languages need.)
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """The text with what a terminal would obey written out, as in \\x1b; line ends are, too."""
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") or character in _DIRECTION
        else character
        for character in text
    )
