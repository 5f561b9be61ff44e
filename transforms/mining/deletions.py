"""What must be forgotten: images, and what people typed."""

import dataclasses
import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from model_code.text.normalise import normalize_query
from model_code.text.words import query_parts
from schemas.base import fingerprint
from schemas.base.errors import PhraseLensError
from transforms.rows.checked import id_texts, one_form, texts_of
from transforms.rows.columns import check_columns, columns_of
from transforms.rows.tabular import BadRows, read_table

DELETION_FIELDS = ("image", "user", "query")


@dataclasses.dataclass(frozen=True)
class Deletions:
    """A list of what must be forgotten.

    Attributes:
      keys: images, as the log and the label files call them, in NFC.
      users: hashes of people of whom nothing may stay.
      user_queries: (hash of a person, query_id) of which nothing may stay.
    """

    keys: tuple[str, ...] = dataclasses.field(default=(), repr=False)
    users: tuple[int, ...] = ()
    user_queries: tuple[tuple[int, int], ...] = ()

    @functools.cached_property
    def key_array(self) -> pa.Array:
        """[k] string."""
        return pa.array(self.keys, pa.string())

    @functools.cached_property
    def key_set(self) -> frozenset[str]:
        """The images, to look one up."""
        return frozenset(self.keys)

    def match(
        self, keys: pa.Array, key_of: np.ndarray, query_ids: np.ndarray, people: np.ndarray
    ) -> np.ndarray:
        """[rows] bool: the rows that must be forgotten.

        Args:
          keys: [n] string, distinct keys.
          key_of: [rows] int64, the place of a row's key among them.
          query_ids: [rows] int64.
          people: [rows] int64 hashes.
        """
        found = np.zeros(len(key_of), bool)
        if self.keys:
            # A day that an older version mined has them as its log did.
            is_gone = pc.is_in(one_form(keys), value_set=self.key_array)
            found |= is_gone.to_numpy(zero_copy_only=False)[key_of]
        if self.users or self.user_queries:
            found |= np.isin(people, np.array(self.users, np.int64))
            whose, what = np.array(self.user_queries, np.int64).reshape(-1, 2).T
            listed = fingerprint.mix(np.ascontiguousarray(whose), np.ascontiguousarray(what))
            found |= np.isin(fingerprint.mix(people, query_ids), listed)
        return found


def read_deletions(path: str, person_key: bytes, longest_part: int = 0) -> Deletions:
    """Reads a deletion list: a table with the columns image, user and query, any may be blank.

    A row with an image names that image; a row with a user that person's rows, or, with a
    query too, that person's rows of that query and of its parts.

    Args:
      path: the list.
      person_key: key of the hashes of people.
      longest_part: words of the longest part of a query that was counted; 0 for none.

    Raises:
      PhraseLensError: the file cannot be read, or a row names neither an image nor a user.
    """
    mapping = {field: field for field in DELETION_FIELDS}
    if not set(DELETION_FIELDS) & set(columns_of(path)):
        raise PhraseLensError(
            path, "a column image or user, and optionally query", "Name its columns so."
        )
    check_columns(path, "", mapping, ())
    keys: set[str] = set()
    users: set[int] = set()
    user_queries: set[tuple[int, int]] = set()
    for batch in read_table(path, mapping):
        if isinstance(batch, BadRows):
            raise PhraseLensError(path, f"rows that can be read ({batch.details[0]})", "Repair it.")
        values = {}
        for name, field, read in (
            ("image", "image", id_texts),
            ("user", "user", id_texts),
            ("user as written", "user", texts_of),
            ("query", "query", texts_of),
        ):
            column = batch[field] if field in batch.column_names else None
            values[name] = read(column, batch.num_rows)
            if None in values[name]:
                raise PhraseLensError(
                    f"column {field!r} of {path}", "text in UTF-8", "Write it as UTF-8."
                )
        for image, user, written, query in zip(*values.values(), strict=True):
            if not image and not user:
                raise PhraseLensError(
                    f"a row of {path}", "an image or a user", "Name what must be forgotten."
                )
            if image:
                keys.add(image)
            # A day that an older version mined has the user as the log wrote it.
            for name in {user, written} if user else ():
                person = fingerprint.hash64(name, person_key)
                if query:
                    whole = normalize_query(query)
                    parts = query_parts(pa.array([whole]), longest_part)[1] if longest_part else []
                    for text in (whole, *map(str, parts)):
                        user_queries.add((person, fingerprint.hash64(text)))
                else:
                    users.add(person)
    return Deletions(tuple(sorted(keys)), tuple(sorted(users)), tuple(sorted(user_queries)))
