"""The one normalisation of queries, for mining, training and prediction."""

import unicodedata

import ftfy
import pyarrow as pa
import pyarrow.compute as pc
import regex
from ftfy.fixes import uncurl_quotes

# Goes up with every change of a result: ids of queries are hashes of normalised texts.
NORMALIZATION_VERSION = 2

# What shows nothing or only picks another look of the character before it, but for white
# space, joiners, and the tags that make England's flag of a black one (kept as group 1).
_INVISIBLE = regex.compile(
    r"(\U0001F3F4[\U000E0030-\U000E0039\U000E0061-\U000E007A]+\U000E007F)"
    r"|[[\p{Cc}\p{Cf}\p{Co}\p{Noncharacter_Code_Point}\p{Default_Ignorable_Code_Point}"
    r"\N{BRAILLE PATTERN BLANK}]--[\s\u200C\u200D]]",
    regex.VERSION1,
)
# Joiners shape Indic words next to a virama and Arabic ones between letters, and tie emoji
# together (a group each); elsewhere nobody sees them. After Unicode Standard Annex 31, 2.3.
_JOINERS = regex.compile(
    r"(?<=\p{Canonical_Combining_Class=Virama})([\u200C\u200D])[\u200C\u200D]*+"
    r"|([\u200C\u200D])[\u200C\u200D]*+(?=\p{Canonical_Combining_Class=Virama})"
    r"|(?<=\p{Bidi_Class=AL}\p{M}*)([\u200C\u200D])[\u200C\u200D]*+(?=\p{Bidi_Class=AL})"
    r"|(?<=[\p{Extended_Pictographic}\p{Emoji_Modifier}])"
    r"(\u200D)[\u200C\u200D]*+(?=\p{Extended_Pictographic})"
    r"|[\u200C\u200D]+"
)
# İ folds to an i with one more dot, which looks like the i of everybody who types small letters.
_SECOND_DOT = regex.compile(r"(?<=i)\u0307")


def normalize_query(text: str) -> str:
    """Brings a query to the form in which it is counted, trained on and looked up.

    Text decoded by the wrong table is repaired (ftfy), typographic quotes become plain;
    then NFKC_Casefold (The Unicode Standard, 3.13, R5), which also removes what is
    invisible, with the joiners kept that shape words and emoji; control characters
    removed, white space collapsed. ❤ with and without a variation selector are one query.
    HTML entities stay: nobody can tell who typed them. Idempotent.

    Raises:
      UnicodeEncodeError: the text holds a lone surrogate.
    """
    text.encode("utf-8")
    # Where a character is removed its neighbours may compose, so once is not always enough.
    while (normalized := _normalize_once(text)) != text:
        text = normalized
    return text


def _normalize_once(text: str) -> str:
    text = uncurl_quotes(ftfy.fix_encoding(text))
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    text = _INVISIBLE.sub(r"\1", " ".join(text.split()))
    text = _SECOND_DOT.sub("", _JOINERS.sub(r"\1\2\3\4", text))
    return " ".join(text.split())


def normalize_queries(texts: pa.Array) -> pa.Array:
    """`normalize_query` of many texts; printable ASCII never leaves Arrow.

    Args:
      texts: [n] string or binary; give each text once, the rest costs Python time.

    Returns:
      [n] string; null where a text is null or no UTF-8.
    """
    options = pc.CastOptions(pa.string(), allow_invalid_utf8=True)
    strings = texts.cast(options=options)
    is_other = pc.invert(pc.fill_null(pc.ascii_is_printable(strings), True))
    plain = pc.if_else(is_other, None, strings)
    plain = pc.ascii_trim(pc.ascii_lower(plain), " ")
    has_runs = pc.fill_null(pc.match_substring(plain, "  "), False)
    single = pc.replace_substring_regex(plain.filter(has_runs), " +", " ")
    plain = pc.replace_with_mask(plain, has_runs, single)
    others = strings.filter(is_other).cast(pa.binary()).to_pylist()
    found = pa.array([_normalize_bytes(other) for other in others], pa.string())
    return pc.replace_with_mask(plain, is_other, found)


def _normalize_bytes(text: bytes) -> str | None:
    try:
        return normalize_query(text.decode("utf-8"))
    except UnicodeDecodeError:
        return None
