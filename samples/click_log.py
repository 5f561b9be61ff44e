"""The click log: sessions in which people look for an image, see some and click a few.

A session is a pure function of `(seed, index)` and of how many images there are.
"""

import random
from typing import NamedTuple

from samples import queries, scenes
from samples.words import LANGUAGES, THEMES

FIRST_DAY = 1_735_689_600  # 2025-01-01 00:00 UTC
DAYS = 180
MAX_POSITION = 20
STOP_SHARE = 0.24  # of the people who look at a result and no further
FADE = 0.97  # each position is clicked that much less than the one above it
MISS_APPEAL = 0.95  # why people click on what they did not look for, nobody knows
EVENTS_PER_SESSION = 6.4  # as the shares above make it
SESSIONS_PER_USER = 6
TRIES = 4  # how hard the search engine looks for an image that fulfils the whole wish


class Event(NamedTuple):
    """One row of the log, and `kind`, which the log does not tell.

    `kind` is "clicked", "missed" (clicked, yet not what the query asks for), "seen" or, for
    a row that no system can use, "unknown_image", "empty_query" or "negative_clicks".
    """

    session: str
    user: str
    timestamp: int
    query: str
    image: str
    position: int
    clicks: int
    kind: str


def popular(rng: random.Random, count: int) -> int:
    """Draws a rank below `count`; rank r comes up in proportion to about 1 / √(r + 1)."""
    return int(count * rng.random() ** 2)


def language_of(seed: int, user: int) -> str:
    shares = [words.share for words in LANGUAGES.values()]
    return scenes.stream(seed, "user", user).choices(tuple(LANGUAGES), shares)[0]


def num_sessions(images: int, events_per_image: float) -> int:
    """How many sessions give about so many events."""
    return round(images * events_per_image / EVENTS_PER_SESSION)


def session(
    seed: int, index: int, images: int, sessions: int, *, miss_share: float, bad_share: float
) -> list[Event]:
    """What one person did in one sitting.

    Args:
      seed: of the whole collection.
      index: of the session.
      images: how many there are.
      sessions: how many there are.
      miss_share: of the results that come up whatever the query; people click on them too.
      bad_share: of the rows that no system can use.

    Returns:
      The rows in the order of time.
    """
    rng = scenes.stream(seed, "session", index)
    user = popular(rng, max(1, sessions // SESSIONS_PER_USER))
    target = popular(rng, images)
    wanted = queries.facets_of(scenes.scene_of(seed, target))
    time = FIRST_DAY + rng.randrange(DAYS * 86_400)
    events = []
    typed = queries.search(language_of(seed, user), wanted, rng)
    for query in typed:
        time += rng.randint(4, 25)
        page = _page(seed, rng, images, query.wish, wanted=wanted, miss_share=miss_share)
        if query is typed[-1]:  # the last query finds what they had in mind; an earlier one may not
            page = [image for image in page if image != target]
            page.insert(rng.randrange(len(page) + 1), target)
        for position, image in enumerate(page):
            found = queries.facets_of(scenes.scene_of(seed, image))
            fit = queries.agreement(query.wish, wanted, found)
            clicked = rng.random() < (fit or MISS_APPEAL) * FADE**position
            time += rng.randint(1, 9)
            event = Event(
                session=f"s{index:010d}",
                user=f"u{user:08d}",
                timestamp=time,
                query=query.text,
                image=scenes.key_of(image),
                position=position + 1,
                clicks=rng.choices((1, 2, 3), (88, 9, 3))[0] if clicked else 0,
                kind="seen" if not clicked else "clicked" if fit else "missed",
            )
            events.append(_spoilt(event, rng) if rng.random() < bad_share else event)
    return events


def _page(
    seed: int,
    rng: random.Random,
    images: int,
    wish: tuple[str, ...],
    *,
    wanted: dict[str, str],
    miss_share: float,
) -> list[int]:
    """The results that a person looks at, from the top; none comes twice."""
    page: dict[int, None] = {}
    while len(page) < MAX_POSITION:
        missed = rng.random() < miss_share
        image = popular(rng, images) if missed else _result(seed, rng, images, wish, wanted)
        page[image] = None
        if rng.random() < STOP_SHARE:
            break
    return list(page)


def _result(
    seed: int, rng: random.Random, images: int, wish: tuple[str, ...], wanted: dict[str, str]
) -> int:
    """An image such as a search engine finds: of the right shape or theme, often no more."""
    best, best_fit = 0, -1.0
    for _ in range(TRIES):
        shape = wanted["shape"] if wish[0] == "shape" else rng.choice(THEMES[wanted["theme"]])
        block = popular(rng, images // scenes.BLOCK)
        image = scenes.index_of(seed, block, shape)
        found = queries.facets_of(scenes.scene_of(seed, image))
        fit = queries.agreement(wish, wanted, found)
        if fit > best_fit:
            best, best_fit = image, fit
        if fit == 1:
            break
    return best


def _spoilt(event: Event, rng: random.Random) -> Event:
    kind = rng.choice(("unknown_image", "empty_query", "negative_clicks"))
    if kind == "unknown_image":
        return event._replace(image="deleted-" + event.image, kind=kind)
    if kind == "empty_query":
        return event._replace(query=rng.choice(("", "  ", "\t")), kind=kind)
    return event._replace(clicks=-1, kind=kind)
