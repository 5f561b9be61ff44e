"""What people type when they look for a scene, and how they change it when it does not help."""

import random
from typing import NamedTuple

from samples.scenes import Scene
from samples.words import LANGUAGES, THEME_OF

# What a query asks for, with the share of the people who ask for it. Most name the main object;
# no word but the shape's belongs to the taxonomy.
WISHES: dict[tuple[str, ...], float] = {
    ("shape",): 0.30,
    ("shape", "colour"): 0.34,
    ("shape", "colour", "size"): 0.07,
    ("shape", "background"): 0.07,
    ("shape", "colour", "background"): 0.03,
    ("shape", "companion"): 0.09,
    ("theme",): 0.06,
    ("theme", "background"): 0.04,
}
LATIN_LETTERS = "abcdefghijklmnopqrstuvwxyz"
REFORMULATED_SHARE = 0.4
MISSPELT_SHARE = 0.03  # left as it is; others mend theirs with the next query
MEDIUM_SHARE = 0.12
CAPITALS_SHARE = 0.06


class Query(NamedTuple):
    """A text and the facets that it asks for."""

    text: str
    wish: tuple[str, ...]


def facets_of(scene: Scene) -> dict[str, str]:
    """What can be asked for in a scene, by facet."""
    facets = {
        "shape": scene.main.shape,
        "theme": THEME_OF[scene.main.shape],
        "colour": scene.main.colour,
        "size": scene.size,
        "background": scene.background,
    }
    if scene.others:
        facets["companion"] = scene.others[0].shape
    return facets


def agreement(wish: tuple[str, ...], wanted: dict[str, str], found: dict[str, str]) -> float:
    """The share of a wish that an image fulfils, in [0, 1]; 0 for another shape or theme."""
    if wanted[wish[0]] != found[wish[0]]:
        return 0.0
    return sum(wanted[facet] == found.get(facet) for facet in wish) / len(wish)


def phrase(language: str, wish: tuple[str, ...], facets: dict[str, str], name: int = 0) -> str:
    """Says a wish.

    Args:
      language: a key of `LANGUAGES`.
      wish: the facets to be named.
      facets: their values.
      name: which of the shape's names; the last one when there are fewer.
    """
    words = LANGUAGES[language]
    if wish[0] == "theme":
        text = words.themes[facets["theme"]]
    else:
        names = words.nouns[facets["shape"]].split(",")
        noun, _, gender = names[min(name, len(names) - 1)].partition("|")
        form = ["", "f", "n"].index(gender)

        def inflected(forms: str) -> str:
            all_forms = forms.split(",")
            return all_forms[min(form, len(all_forms) - 1)]

        text = words.order.format(
            noun=noun,
            colour=inflected(words.colours[facets["colour"]]) if "colour" in wish else "",
            size=inflected(words.sizes[facets["size"]]) if "size" in wish else "",
        )
        text = " ".join(text.split())
    if "companion" in wish:
        text = words.pair.format(text, words.names(facets["companion"])[0])
    if "background" in wish:
        text = words.backgrounds[facets["background"]].format(text)
    return text


def misspell(text: str, rng: random.Random) -> str:
    """Makes one slip in the longest word: two letters swapped, or one dropped, doubled or wrong.

    The first letter stays, as it mostly does; a word of one letter stays as it is.
    """
    word = max(text.split(), key=len, default="")
    if len(word) < 2:
        return text
    swaps = [i for i in range(1, len(word) - 1) if word[i] != word[i + 1]]
    if swaps and rng.random() < 0.25:
        i = rng.choice(swaps)
        wrong = word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    else:
        i = rng.randrange(1, len(word))
        typed = ["", word[i] * 2]
        if word[i] in LATIN_LETTERS:
            typed.append(rng.choice(LATIN_LETTERS.replace(word[i], "")))
        wrong = word[:i] + rng.choice(typed) + word[i + 1 :]
    return text.replace(word, wrong, 1)


def _styled(language: str, text: str, rng: random.Random) -> str:
    """Adds what some people add: the kind of picture, capitals."""
    if rng.random() < MEDIUM_SHARE:
        text = rng.choice(LANGUAGES[language].media).format(text)
    if rng.random() < CAPITALS_SHARE:
        text = rng.choice((str.title, str.upper))(text)
    return text


def search(language: str, facets: dict[str, str], rng: random.Random) -> list[Query]:
    """The queries of one session, in the order in which they were typed.

    Some people need one, others say it in another way after a first try: more exactly, with
    a slip mended, with another name, or in English.

    Args:
      language: of the person.
      facets: of the image that they have in mind.
      rng: the session's stream.

    Returns:
      One or two queries.
    """
    wishes = [w for w in WISHES if set(w) <= set(facets)]
    wish = rng.choices(wishes, [WISHES[w] for w in wishes])[0]
    name = int(rng.random() < 0.2)
    plain = phrase(language, wish, facets, name)
    if rng.random() >= REFORMULATED_SHARE:
        text = _styled(language, plain, rng)
        if rng.random() < MISSPELT_SHARE:
            text = misspell(text, rng)
        return [Query(text, wish)]
    how = rng.choice(("refine", "mend", "rename", "translate"))
    if how == "refine" and len(wish) > 1:
        first = Query(phrase(language, wish[:1], facets, name), wish[:1])
    elif how == "rename":
        first = Query(phrase(language, wish, facets, 1 - name), wish)
    elif how == "translate" and language != "en":
        first, language = Query(plain, wish), "en"
        plain = phrase(language, wish, facets, name)
    else:
        first = Query(misspell(plain, rng), wish)
    if first.text == plain:  # there is no other name
        return [Query(plain, wish)]
    return [first, Query(plain, wish)]
