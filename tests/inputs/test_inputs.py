"""What docs/use/inputs.md says of inputs that people have is what happens."""

import pytest

from tests.inputs import __main__ as page
from tests.inputs.case import all_cases


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[pytest.mark.slow] * case.slow, id=f"{case.kind}-{case.example}")
        for case in all_cases()
    ],
)
def test_what_the_docs_say_of_an_input_is_what_happens(tmp_path, case):
    assert case.run(tmp_path) == case.happens


def test_the_page_is_the_one_that_the_cases_make():
    assert page.PAGE.read_text() == page.text(), "run `./run.sh test --inputs` to make it anew"


def test_no_example_stands_twice():
    seen = [(case.kind, case.example) for case in all_cases()]
    assert len(seen) == len(set(seen))
