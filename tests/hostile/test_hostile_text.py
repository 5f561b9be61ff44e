"""What people typed, where it is shown: in terminals and in Markdown. HTML has tests of its own."""

import re
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.models import similar
from model_code.report import pages as report
from schemas.base.errors import PhraseLensError
from schemas.base.printable import printable

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\r\b\u202eexe.gpj\u2066"


@given(st.text())
def test_a_terminal_obeys_nothing(text):
    shown = printable(text)
    assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in shown)
    assert shown == printable(shown)


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S"])))
def test_what_people_write_is_shown_as_it_is(text):
    assert printable(text) == text


def test_planted_escapes_are_written_out():
    assert printable(ESCAPES) == ("\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\r\\x08\\u202eexe.gpj\\u2066")
    assert printable("می‌خواهم 👨‍👩‍👧") == "می‌خواهم 👨‍👩‍👧", "joiners belong to words"


def test_errors_name_items_without_obeying_them():
    error = PhraseLensError(f"file {ESCAPES}.csv", "a table", "Check it.")
    assert "\x1b" not in str(error)
    assert "\\x1b" in str(error)
    assert error.item == f"file {ESCAPES}.csv"


def test_names_and_phrases_of_similar_images():
    item = {"rank": 1, "cosine": 0.5, "image_id": "a", "keys": [ESCAPES], "phrases": [ESCAPES]}
    item["shared_phrases"] = item["phrases"]
    for phrases in (None, [ESCAPES]):
        shown = similar.lines([{"image": ESCAPES, "phrases": phrases, "similar": [item]}])
        assert not re.search("[\x00-\x1f\x7f-\x9f\u202e]", "".join(shown))


def test_a_label_in_a_card_is_no_markdown():
    assert report.cell("![x](http://evil.example/x.png)") == ("!\\[x\\](http://evil.example/x.png)")
    assert report.cell("[a](javascript:b)|`c` **d** _e_ \\| f\n# g\x1b") == (
        "\\[a\\](javascript:b)\\|\\`c\\` \\*\\*d\\*\\* \\_e\\_ \\\\\\| f # g\\\\x1b"
    )
