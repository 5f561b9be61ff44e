"""Texts of characters that compose, shrink or vanish."""

from hypothesis import strategies as st

# Characters whose neighbours compose, shrink or vanish in one form or another.
TRICKY = st.text(
    st.sampled_from(
        "aAiIİßſΣςÅé\u0301\u0307\u0345\u200b\u200c\u200d\u200e\ufeff\x00\t\u3000 ﬁ①ﷺ각ᄀ"
        "’“\x1c\x7f\x85❤\ufe0f👩🏽🏴\U000e0067\U000e007f\u094d\u0915\u06ccÃ©â€™\xa0Ð¸\ufffd"
    )
    | st.characters(exclude_categories=["Cs"]),
    max_size=20,
)
