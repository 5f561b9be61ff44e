"""The one normalisation of queries, for mining, training and prediction; words and languages."""

import functools
import unicodedata
from collections.abc import Sequence

import ftfy
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
from ftfy.fixes import uncurl_quotes
from icu4py.breakers import WordBreaker

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

# The languages told apart. Among all that the library knows, short queries land in rare ones.
# fmt: off
LANGUAGES = (
    "ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi",
    "hr", "hu", "id", "it", "ja", "ka", "ko", "lt", "lv", "ms", "nl", "no", "pl", "pt", "ro", "ru",
    "sk", "sl", "sr", "sv", "ta", "te", "th", "tr", "uk", "ur", "vi", "zh",
)
# fmt: on
_MIN_CONFIDENCE = 0.5


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


def words(query: str) -> set[str]:
    """The words of a normalised query, in any script, without white space and punctuation.

    Unicode Standard Annex 29, with ICU's dictionaries for the scripts written without
    spaces. (The text embedder finds words inside a SavedModel, where no library runs: it
    takes each character of such scripts for a word.)
    """
    return {word for word in map(str, WordBreaker(query, "root")) if _IN_WORDS.search(word)}


def query_parts(queries: pa.Array, longest: int) -> tuple[np.ndarray, pa.Array]:
    """The words of queries and their runs of several, which no punctuation but a hyphen cuts.

    Args:
      queries: [n] string, normalised.
      longest: words of a run at most.

    Returns:
      [parts] int64, rising: which query it is of; and [parts] string, each once a query and
      never the whole of it.
    """
    found = [_parts(query, longest) for query in queries.to_pylist()]
    places = np.repeat(np.arange(len(found)), [len(parts) for parts in found])
    return places, pa.array([part for parts in found for part in parts], pa.string())


def _parts(query: str, longest: int) -> list[str]:
    spans, end = [], 0
    for piece in map(str, WordBreaker(query, "root")):
        start, end = end, end + len(piece)
        if _IN_WORDS.search(piece):
            spans.append((start, end))
    parts = set()
    for first, (start, end) in enumerate(spans):
        for next_start, next_end in [(end, end), *spans[first + 1 : first + longest]]:
            if query[end:next_start] not in ("", " ", "-"):
                break
            end = next_end
            parts.add(query[start:end])
    return sorted(parts - {query})


_IN_WORDS = regex.compile(r"[\p{L}\p{M}\p{N}\p{S}]")


def detect_language(query: str) -> str:
    """ISO 639-1 code of a normalised query, or "und" when it is too short to tell.

    Source: py3langid, after Lui and Baldwin, langid.py, ACL 2012.
    """
    return detect_languages([query])[0]


def detect_languages(queries: Sequence[str]) -> list[str]:
    """[n] codes, see `detect_language`. Where the script tells, nothing else is asked."""
    identifier = _identifier()
    scripts = (_SCRIPTS.fullmatch(query) for query in queries)
    return [
        script.lastgroup if script else identifier.classify(query)[0]
        for query, script in zip(queries, scripts, strict=True)
    ]


# Scripts that write only one of the languages; its Chinese characters do not make a query Chinese.
_SCRIPTS = regex.compile(
    "|".join(
        rf"(?P<{language}>(?=.*\p{{L}})(?=.*{own})(?:{own}|{also}|\P{{L}})*)"
        for language, own, also in (
            ("el", r"\p{Greek}", r"\p{Greek}"),
            ("he", r"\p{Hebrew}", r"\p{Hebrew}"),
            ("ja", r"[\p{Hiragana}\p{Katakana}]", r"[\p{Han}ー]"),
            ("ka", r"\p{Georgian}", r"\p{Georgian}"),
            ("ko", r"\p{Hangul}", r"\p{Han}"),
            ("ta", r"\p{Tamil}", r"\p{Tamil}"),
            ("te", r"\p{Telugu}", r"\p{Telugu}"),
            ("th", r"\p{Thai}", r"\p{Thai}"),
        )
    )
)


@functools.cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    identifier.min_confidence = _MIN_CONFIDENCE
    return identifier
