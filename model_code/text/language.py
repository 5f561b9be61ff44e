"""The language of a query."""

import functools
from collections.abc import Sequence

import regex

# The languages told apart. Among all that the library knows, short queries land in rare ones.
# fmt: off
LANGUAGES = (
    "ar", "bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "et", "fa", "fi", "fr", "he", "hi",
    "hr", "hu", "id", "it", "ja", "ka", "ko", "lt", "lv", "ms", "nl", "no", "pl", "pt", "ro", "ru",
    "sk", "sl", "sr", "sv", "ta", "te", "th", "tr", "uk", "ur", "vi", "zh",
)
# fmt: on
_MIN_CONFIDENCE = 0.5


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
