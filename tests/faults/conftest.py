"""The figures of the fault tests, in one table at the end of a run."""

import pytest

FIGURES = pytest.StashKey[list[tuple[str, str]]]()


@pytest.fixture
def figure(request):
    """Notes a figure of a test: text, for people."""

    def note(text: str) -> None:
        request.config.stash.setdefault(FIGURES, []).append((request.node.name, text))

    return note


def pytest_terminal_summary(terminalreporter, config):
    figures = config.stash.get(FIGURES, [])
    if figures:
        terminalreporter.section("figures of the faults")
    for name, text in figures:
        terminalreporter.write_line(f"{name.removeprefix('test_')}: {text}")
