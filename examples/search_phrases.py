"""Finds phrases that mean alike, by what people choose for them.

  python examples/search_phrases.py work/quickstart/phrases 'red car' …

prints for each phrase those nearest to it in query space: two phrases are near where the same
images answer both, in whatever language they are.
"""

import sys

import phraselens


def main(phrases: str, *texts: str) -> None:
    index = phraselens.open_index(phrases)
    print(f"{len(index):,} phrases, vectors of {index.width}")
    for text in texts:
        try:
            found = index.near(text, count=5)
        except phraselens.PhraseLensError as error:
            print(error)
            continue
        others = [f"{p.text} ({p.score:.2f})" for p in found if p.text != text]
        print(f"{text}: {', '.join(others)}")


if __name__ == "__main__":
    main(*sys.argv[1:])
