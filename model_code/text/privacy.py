"""Finds the queries that hold somebody's personal data, which never leave mining.

One RE2 expression goes over all queries in Arrow; what it leaves, a few in a hundred, is
looked at closely in Python: shapes first, then check digits (python-stdnum). What people
ordinarily search for (years, dates, sizes, prices, models, ISBNs) is kept. IPv4
addresses are kept too: most are versions, examples or routers. So are bare numbers of up
to eight digits, and names: for these there is the least number of users of a query.
"""

import functools
import importlib
import itertools
import unicodedata
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
from stdnum import iban, isbn, luhn

# What every query below has: RE2 goes over millions of queries, each once.
_SUSPECT = "|".join(
    (
        r"@|\Wat\W|(?:\bat|\bdot)\b.*\b(?:com|dot)\b",
        r"://|[?&#][^=\s]+=",
        r"[a-z0-9_]{20}",
        r"(?:\p{Nd}[^a-z0-9,]{0,3}){6}\p{Nd}",
        r"\b[a-z]{2}[0-9]{2} ?[a-z0-9]{4} ?[a-z0-9]{4}",  # IBAN
        r"\b[a-z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[a-d]\b",  # British national insurance
        r"[a-z]{4,6}[0-9]{2}",  # Italian, Mexican and Indian numbers
        r"[0-9]{6}[-+a-fu-y][0-9]{3}",  # Finnish
    )
)


def is_private(texts: pa.Array) -> np.ndarray:
    """Which queries hold personal data.

    Args:
      texts: [n] string, normalised.

    Returns:
      [n] bool; false for null.
    """
    is_suspect = pc.fill_null(pc.match_substring_regex(texts, _SUSPECT), False)
    found = np.zeros(len(texts), bool)
    suspects = texts.filter(is_suspect).to_pylist()
    found[is_suspect.to_numpy(zero_copy_only=False)] = [
        personal_data(suspect) is not None for suspect in suspects
    ]
    return found


def personal_data(query: str) -> str | None:
    """What personal data a normalised query holds.

    Returns:
      "email", "url", "secret", "iban", "national_id", "card" or "phone"; None for nothing.
    """
    query = _plain(query)
    if ("@" in query or "at" in query) and _EMAIL.search(query):
        return "email"
    if _URL.search(query):
        return "url"
    if _holds_secret(query):
        return "secret"
    if _holds_iban(query):
        return "iban"
    if _INTERNATIONAL_PHONE.search(query):
        return "phone"
    if _holds_national_id(query):
        return "national_id"
    digits = sum(map(query.count, "0123456789"))
    if digits >= 13 and _holds_card(query):
        return "card"
    if digits < 8:
        return None
    query = _ORDINARY.sub(_blank, query)
    return "phone" if any(map(_is_no_list, _PHONE.finditer(query))) else None


def _plain(query: str) -> str:
    """The query with the digits, dashes and dots of ASCII for those of all scripts."""
    if query.isascii():
        return query
    query = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in query)
    return _DOTS.sub(".", _DASHES.sub("-", query))


_DASHES = regex.compile(r"[\p{Dash}−]")
_DOTS = regex.compile("[·•∙・]")

# ---- e-mail addresses, written plainly, with blanks, or with words for the signs

_TLD = (
    r"(?:com|net|org|edu|gov|info|biz|io|co|me|us|uk|de|fr|es|it|nl|be|ch|at|pl|pt|ru|cn|jp|kr|in"
    r"|br|mx|ar|ca|au|se|no|dk|fi|cz|gr|tr|ua|eu)\b"
)
_PROVIDER = r"(?:gmail|googlemail|yahoo|hotmail|outlook|icloud|aol|gmx|protonmail|qq|163|mail)"
_AT = r"(?:\s*[(\[{<]\s*at\s*[)\]}>]\s*|\s+at\s+|\s*@\s*)"
_DOT = r"(?:\s*[(\[{<]\s*(?:dot|punkt|punto|point)\s*[)\]}>]\s*|\s+dot\s+)"
_EMAIL = regex.compile(
    rf"[^\s@]@[\w-]+(?:\.[\w-]+)*\.[\p{{L}}\d-]{{2,}}"
    rf"|[^\s@]\s?@\s?[\w-]+(?:\s?\.\s?[\w-]+)*\s?\.\s?{_TLD}"
    rf"|[^\s@]{_AT}[\w-]+(?:(?:{_DOT}|\.)[\w-]+)*{_DOT}{_TLD}"
    rf"|[^\s@]\s*[(\[{{<]\s*at\s*[)\]}}>]\s*[\w-]+(?:\.[\w-]+)*\.\p{{L}}{{2,}}"
    rf"|[^\s@]\s?@\s?{_PROVIDER}\b"
    rf"|[\w.+-]\s+at\s+{_PROVIDER}(?:\.|\s){_TLD}"
)

# ---- addresses of pages that let one in, and other secrets

_URL = regex.compile(
    r"://[^\s/?#@]+@"
    r"|[?&#;](?:[\w-]*(?:token|secret|password|passwd|signature|session|sessionid|api[_-]?key"
    r"|credential|email)|key|sid|sig|auth|pwd|pass|jwt|otp|code|ticket|mail|phone|uid|user[_-]?id"
    r"|user|username|login)=[^\s&#]{3}"
)
_TOKEN = regex.compile(r"[a-z0-9_]{20,}|[a-z0-9_-]{36,}")
_ALTERNATION = regex.compile(r"[a-z]\d|\d[a-z]")


def _holds_secret(query: str) -> bool:
    """Whether it holds a long run of letters and digits that nobody made up by hand."""
    return any(
        len(_ALTERNATION.findall(token, overlapped=True)) >= 5 for token in _TOKEN.findall(query)
    )


# ---- numbers with check digits

_IBAN = regex.compile(r"\b[a-z]{2}\d{2}(?: ?[a-z0-9]){11,30}")


def _holds_iban(query: str) -> bool:
    for match in _IBAN.finditer(query, overlapped=True):
        groups = match[0].split(" ")
        # What follows the number may look like more of it.
        if any(iban.is_valid("".join(groups[:end])) for end in range(1, len(groups) + 1)):
            return True
    return False


# Shape of a number as people write it, and who checks it; none where nothing can be checked.
_NATIONAL_IDS = (
    (r"\d{3}[- .]\d{2}[- .]\d{4}", "us.ssn"),
    (r"(?:ssn|social security)[ a-z:#]*\d{9}", None),
    (r"\d{3}[- .]\d{3}[- .]\d{3}", "ca.sin"),
    (r"\d{3}\.?\d{3}\.?\d{3}[-/ ]\d{2}", "br.cpf"),
    (r"(?:19|20)?\d{6}[-+]\d{4}", "se.personnummer"),
    (r"\d{6}-\d{4}", "dk.cpr"),
    (r"\d{6}-\d{4}", "is_.kennitala"),
    (r"\d{6}[ -]\d{5}", "no.fodselsnummer"),
    (r"\d{6}[-+a-fu-y]\d{3}[0-9a-z]", "fi.hetu"),
    (r"\d{6}[- ]\d{7}", "kr.rrn"),
    (r"[12] ?\d\d ?\d\d ?\d[\dab] ?\d{3} ?\d{3} ?\d\d", "fr.nir"),
    (r"\d\d[. ]?\d\d[. ]?\d\d[- ]?\d{3}[. ]?\d\d", "be.nn"),
    (r"756[. ]?\d{4}[. ]?\d{4}[. ]?\d\d", "ch.ssn"),
    (r"\d{1,2}\.?\d{3}\.?\d{3}-[\dk]", "cl.rut"),
    (r"\d\d-\d{8}-\d", "ar.cuit"),
    (r"[a-z]{4}\d{6}[a-z]{6}[0-9a-z]\d", "mx.curp"),
    (r"\d{8}[- ]?[a-z]", "es.dni"),
    (r"[xyz][- ]?\d{7}[- ]?[a-z]", "es.nie"),
    (r"[a-z]{6}\d\d[a-z]\d\d[a-z]\d{3}[a-z]", "it.codicefiscale"),
    (r"(?!bg|gb|kn|nk|nt|tn|zz)[a-z]{2} ?\d\d ?\d\d ?\d\d ?[a-d]", None),  # British
    (r"\d{3}[- ]\d{3}[- ]\d{4}", "gb.nhs"),
    (r"\d{7}[a-w][a-w]?", "ie.pps"),
    (r"\d{4}[- ]\d{4}[- ]\d{4}", "in_.aadhaar"),
    (r"[a-z]{5}\d{4}[a-z]", "in_.pan"),
    (r"\d{17}[\dx]", "cn.ric"),
    (r"\d{3}-\d{3}-\d{3}[ -]\d\d", None),  # Russian SNILS
    (r"\d{6}/\d{3,4}", "cz.rc"),
    (r"\d{6}-\d\d-\d{4}", "my.nric"),
    (r"\d-\d{4}-\d{5}-\d\d-\d", "th.pin"),
    (r"\d{5}-\d{7}-\d", "pk.cnic"),
)


def _whole(shape: str) -> regex.Pattern:
    return regex.compile(rf"(?<![\p{{L}}\d]|\d[-./])(?:{shape})(?![\p{{L}}\d]|[-./]\d)")


_ANY_NATIONAL_ID = _whole("|".join(sorted({shape for shape, _ in _NATIONAL_IDS})))


@functools.cache
def _national_ids() -> tuple[tuple[regex.Pattern, Any], ...]:
    return tuple(
        (_whole(shape), module and importlib.import_module(f"stdnum.{module}"))
        for shape, module in _NATIONAL_IDS
    )


def _holds_national_id(query: str) -> bool:
    if not _ANY_NATIONAL_ID.search(query):
        return False
    return any(
        module is None or any(map(module.is_valid, (match[0], _compact(match[0]))))
        for pattern, module in _national_ids()
        for match in pattern.finditer(query)
    )


def _compact(number: str) -> str:
    return regex.sub("[-. /]", "", number)


# ---- cards and phones, once ordinary numbers are out of the way

_YEAR = r"(?:1[5-9]|20)\d\d"
_DAY = r"(?:0?[1-9]|[12]\d|3[01])"
_MONTH = r"(?:0?[1-9]|1[0-2])"
_TIME = r"(?:[ _t-]?\d\d[-:. ]?\d\d(?:[-:. ]?\d\d)?)?"
# Not the end of a longer number, nor of one with a leading zero that goes on after a blank.
_ORDINARY = regex.compile(
    r"(?<![\d+]|\d[-./]|\b0\d{0,4}[ )/]{1,2})(?:"
    rf"{_YEAR}([-./ ]){_MONTH}\1{_DAY}{_TIME}"
    rf"|{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]){_TIME}"
    rf"|{_DAY}([-./ ]){_MONTH}\2{_YEAR}|{_MONTH}([-./ ]){_DAY}\3{_YEAR}"
    rf"|{_YEAR}(?:[ –/-]+{_YEAR})+"
    r"|[1-9]\d{0,2}(?:[ .]\d{3})*[ .]000"  # thousands
    r"|\d{1,3}\.\d{5,}"  # decimals
    r"|\d{1,3}(?:\.\d{1,3}){3}"  # IPv4, versions
    r"|(?P<isbn>97[89](?:[- ]?\d){10})"
    r"|(?P<named_isbn>(?<=isbn[^\d]{0,6})\d(?:[- ]?\d){8}[- ]?[\dx])"
    r"|(?P<trivial>\d{8,})"
    r")(?!\d|[-./]\d)"
)
_COUNTING = "1234567890 01234567891011121314151617181920"


def _blank(match: regex.Match) -> str:
    """Nothing, in place of an ordinary number; the number itself if a check finds it is none."""
    number = _compact(match[0])
    if match["isbn"] or match["named_isbn"]:
        return "·" if isbn.is_valid(number) else match[0]
    if match["trivial"]:
        is_trivial = (
            set(number) <= {"0", "1"}
            or len(set(number)) == 1
            or number in _COUNTING
            or number.endswith("000000")
        )
        return "·" if is_trivial else match[0]
    return "·"


# Visa, Mastercard, American Express and their like begin so.
_CARD_NUMBER = regex.compile(r"(?=\d{13,}$)(?:[3-6]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720))\d+")
_CARD = regex.compile(r"\d{4,}(?:[ ._/*-]{1,3}\d{4,})*[ ._/*-]{0,3}\d+|\d(?:[ ._*-]\d){12,18}")


def _holds_card(query: str) -> bool:
    """Whether it holds 13 to 19 digits in groups of at least four with a right Luhn digit."""
    for match in _CARD.finditer(query):
        groups = regex.findall(r"\d+", match[0])
        for first in range(len(groups)):
            for end in range(first + 1, len(groups) + 1):
                number = "".join(groups[first:end])
                if len(number) > 19:
                    break
                if _CARD_NUMBER.fullmatch(number) and luhn.is_valid(number):
                    return True
    return False


_GAP = r"[ .\-/–()]{1,3}"
_MAYBE_GAP = r"[ .\-/–()]{0,3}"
_INTERNATIONAL_PHONE = regex.compile(
    rf"(?<![\w+])\+ ?\(?[1-9](?:{_MAYBE_GAP}\d){{7,14}}(?!\d)"
    rf"|(?<![\w.,-])00{_MAYBE_GAP}[1-9](?:{_MAYBE_GAP}\d){{8,13}}(?!\d)"
    r"|(?<!\p{L})(?:tel|telefon|tel[eé]fono|telefone|t[eé]l[eé]phone|(?:tele)?phone (?:number|no)"
    r"|cell (?:number|no)|mobile (?:number|no)|call|whatsapp|fax|тел|телефон|電話|电话|전화)"
    rf"[ .:#]*\(?\d(?:{_MAYBE_GAP}\d){{6,14}}(?!\d)"
)
# National ways to write a phone number. The first is the trunk prefix of most countries.
_PHONE = regex.compile(
    r"(?<![\d.,]|\d[-/ ])(?:"
    rf"\(?0[-/]?[1-9](?:{_MAYBE_GAP}\d){{6,10}}"
    rf"|(?:1{_MAYBE_GAP})?\(?[2-9]\d\d{_GAP}\d{{3}}{_GAP}\d{{4}}"  # North America
    rf"|[2-9]\d\d{_GAP}\d{{7}}"  # Italy
    rf"|[6-9]\d{{4}}{_GAP}\d{{5}}"  # India
    rf"|1[3-9]\d{_GAP}\d{{4}}{_GAP}\d{{4}}"  # China
    rf"|(?:[78]{_GAP})?\(?[2-9]\d\d{_GAP}\d{{3}}{_GAP}\d\d{_GAP}\d\d"  # Russia, Turkey
    rf"|\(?[1-9]\d{_GAP}9?\d{{4}}{_GAP}\d{{4}}"  # Brazil, Mexico
    rf"|[2-9]\d\d{_GAP}\d{{3}}{_GAP}\d{{3}}"  # Spain, Portugal, Poland, Czechia
    rf"|[5-9]\d\d{_GAP}\d\d{_GAP}\d\d{_GAP}\d\d"
    rf"|[1-9]\d{_GAP}\d{{3}}{_GAP}\d\d{_GAP}\d\d"  # Hungary, Poland, Switzerland
    rf"|[2-9]\d{_GAP}\d{{3}}{_GAP}(?!{_YEAR})\d{{4}}"  # Portugal
    r"|\d{9,}"  # nobody names a thing by that many digits
    r")(?!\d|[.,/-]\d)"
)


def _is_no_list(match: regex.Match) -> bool:
    """Tells a phone number from a list of sizes: blanks between what is counted up or round."""
    if not regex.fullmatch(r"[1-9][\d ]*", match[0]):
        return True
    groups = [int(group) for group in match[0].split()]
    steps = {later - earlier for earlier, later in itertools.pairwise(groups)}
    is_counted = len(groups) > 2 and len(steps) == 1 and 1 <= abs(min(steps)) <= 10
    is_round = len(groups) > 1 and all(group % 10 == 0 for group in groups)
    is_colour = len(groups) == 3 and max(groups) <= 255
    return not (is_counted or is_round or is_colour)
