"""How many images a plan says that networks would see, against what could become of them."""

from hypothesis import given
from hypothesis import strategies as st

from beam_jobs.runs.plan import Sources, compared

IDS = st.sampled_from("abcdefgh")


@given(
    st.dictionaries(IDS, IDS),
    st.sets(IDS),
    st.sets(IDS),
    st.integers(0, 3),
)
def test_no_more_images_lack_a_row_than_is_said(represented, embedded, gone, new):
    """Each image stands for itself or is a copy of another; any may be clicked for the first time.

    `represented`: image → the one that stands for it, if that stands for itself.
    """
    images = set("abcdefgh")
    copies = {i for i, of in represented.items() if i != of and represented.get(of, of) == of}
    known = {f"source {i}": (i, i not in copies) for i in images}
    here = {f"source {i}" for i in images - gone}
    found = compared(len(here) + new, new, known, here)
    # A copy has a row of its own only where what stood for it is gone.
    rows = {i for i in images - gone if i not in copies or represented[i] in gone}
    assert found.lacking(embedded) >= len(rows - embedded) + new
    assert found.gone == len(images & gone)
    if not found.gone:
        assert found.lacking(embedded) == len(rows - embedded) + new


def test_images_that_were_never_clicked_may_be_clicked_now():
    found = Sources(6, 1, 0, frozenset("abcde"), frozenset())
    assert found.lacking({"a", "b"}) == 4
