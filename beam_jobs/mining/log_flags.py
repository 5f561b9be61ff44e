"""The flags that say how a click log is read, free of Beam."""

import dataclasses

from schemas.console.flags import flag
from transforms.rows.layouts import FORMATS
from transforms.rows.log_fields import LOG_FIELDS, PLACEHOLDERS


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogConfig:
    """Of mine_log, and of mine_pairs too."""

    log: tuple[str, ...] = flag("Click log: files, globs or folders.", default=(), role="input")
    columns: tuple[str, ...] = flag(
        "Columns of the log as field=column; fields are " + ", ".join(LOG_FIELDS) + ".",
        default=(),
        essential=True,
    )
    format: str = flag("What the log is; auto looks at the files.", default="auto", choices=FORMATS)
    forget: str = flag(
        "Deletion list: a table with the columns image, user and query.",
        default="",
        role="input",
        essential=False,
    )
    blocklist: str = flag(
        "Words and queries to leave out, one a line.", default="", role="input", essential=False
    )
    person_key: str = flag(
        "File with the secret key of the hashes of users and sessions.",
        default="",
        role="input",
        essential=False,
    )
    max_query_chars: int = flag("Longer queries die.", default=1000, minimum=1)
    query_parts: int = flag(
        "Count a click for the parts of its query too, of at most so many words: for captions and "
        "titles, which hardly repeat as a whole. 0 for none.",
        default=0,
        minimum=0,
    )
    max_person_events: int = flag("Who does more on one day is a robot.", default=1000, minimum=1)
    max_person_clicks: int = flag(
        "Clicks a day of one person on one pair that count.", default=3, minimum=1
    )
    nobody: tuple[str, ...] = flag(
        "Users and sessions that stand for people who are not known, in any case; empty ones "
        "always do.",
        default=PLACEHOLDERS,
    )
    max_robot_share: float = flag(
        "Share of the events that may be dropped as a robot's before the job fails.",
        default=0.25,
        minimum=0,
        maximum=1,
    )
