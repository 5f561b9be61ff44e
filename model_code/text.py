"""The one normalisation of queries, for mining, training and prediction."""

import functools
import unicodedata

NORMALIZATION_VERSION = 1

# The languages told apart. Among all that the library knows, short queries land in rare ones.
# fmt: off
LANGUAGES = (
    "ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi",
    "hr", "hu", "id", "it", "ja", "ka", "ko", "lt", "lv", "ms", "nl", "no", "pl", "pt", "ro", "ru",
    "sk", "sl", "sr", "sv", "ta", "te", "th", "tr", "uk", "ur", "vi", "zh",
)
# fmt: on

# Joiners shape words in Persian and Indic scripts and hold emoji sequences together.
_KEPT_FORMAT_CHARACTERS = "\u200c\u200d"


def normalize_query(text: str) -> str:
    """Brings a query to the form in which it is counted, trained on and looked up.

    NFKC, case folding, control and format characters removed (joiners kept), white
    space collapsed. Idempotent.

    Raises:
      UnicodeEncodeError: the text holds a lone surrogate.
    """
    text.encode("utf-8")
    # Where a character is removed its neighbours may compose, so once is not always enough.
    while (normalized := _normalize_once(text)) != text:
        text = normalized
    return text


def _normalize_once(text: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    kept = (
        " " if character.isspace() else character
        for character in text
        if character.isspace()
        or character in _KEPT_FORMAT_CHARACTERS
        or unicodedata.category(character) not in ("Cc", "Cf", "Cn", "Co")
    )
    return " ".join("".join(kept).split()).strip(_KEPT_FORMAT_CHARACTERS + " ")


def words(query: str) -> set[str]:
    """The words of a normalised query; single characters in scripts written without spaces."""
    found: set[str] = set()
    for part in query.split():
        spaced = [character for character in part if ord(character) < _FIRST_CJK]
        found |= set(part) - set(spaced) if len(spaced) < len(part) else set()
        found |= {"".join(spaced)} - {""}
    return found


# From here on Unicode has the radicals, kana and ideographs.
_FIRST_CJK = 0x2E80


def detect_language(query: str) -> str:
    """ISO 639-1 code of a query, or "und" when it is too short to tell.

    Source: py3langid, after Lui and Baldwin, langid.py, ACL 2012.
    """
    return _identifier().classify(query)[0]


@functools.cache
def _identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    identifier.min_confidence = 0.3
    return identifier
