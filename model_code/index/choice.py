"""Which kind of phrase index suits, and its structure: a rule, free of Faiss.

flat     every vector is compared: exact. Nothing is stored beside the vectors themselves.
ivf_flat inverted file: only the lists nearest to the question are compared.
         Source: Sivic & Zisserman, ICCV 2003; Jégou et al., PAMI 2011, section IV.
hnsw     a graph of near neighbours is walked. Source: Malkov & Yashunin, PAMI 2020.
ivf_pq   an inverted file of 4-bit product codes, laid out to be compared in registers; the
         best candidates are compared again with their vectors.
         Source: Jégou et al., PAMI 2011; André et al., VLDB 2015 (PQ Fast Scan).
"""

import dataclasses

import numpy as np

from schemas.base.errors import PhraseLensError

KINDS = ("flat", "ivf_flat", "hnsw", "ivf_pq")
# Up to here a scan takes milliseconds a batch, and is exact.
FLAT_MAX = 1 << 17
# A graph cannot be built in parts: this many take one thread about eight minutes.
HNSW_MAX = 1 << 22
# Above this recall the codes would need thousands of candidates.
PQ_RECALL_MAX = 0.995
# Fewer vectors than this cannot train a quantizer.
TRAIN_MIN = 1 << 10
TRAIN_PER_LIST = 48
LINKS = 32
ID_BYTES = 8


@dataclasses.dataclass(frozen=True)
class IndexSettings:
    """What is asked of an index.

    Attributes:
      kind: one of KINDS, or "auto".
      recall: share of the 3 nearest phrases that search must find, in (0, 1].
      memory: bytes that a worker may spend on it; 0 for no limit.
      max_drift: share of rows that may come, go or move before it is built anew.
    """

    kind: str = "auto"
    recall: float = 0.99
    memory: int = 0
    max_drift: float = 0.2


DEFAULT = IndexSettings()


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind with its structure: inverted lists, links of a graph's node, bytes of a code."""

    name: str
    lists: int = 0
    links: int = 0
    code_bytes: int = 0

    @property
    def is_mergeable(self) -> bool:
        """Whether it is trained first and then filled in parts."""
        return self.lists > 0


def kind_of(name: str, rows: int, width: int) -> Kind:
    """A kind with the structure that suits so many rows; flat where they are too few to train.

    An inverted file has 4 √rows lists, to the next power of two.
    """
    if rows < TRAIN_MIN and name != "hnsw":
        name = "flat"
    lists = 1 << round(np.log2(4 * np.sqrt(max(rows, 1))))
    if name == "ivf_flat":
        return Kind(name, lists=lists)
    if name == "ivf_pq":
        return Kind(name, lists=lists, code_bytes=-(-sub_vectors(width) // 2))
    return Kind(name, links=LINKS if name == "hnsw" else 0)


def sub_vectors(width: int) -> int:
    """Of a product code: one for two dimensions, four bits each."""
    return width // 2 if width % 2 == 0 else width


def resident_bytes(kind: Kind, rows: int, width: int) -> int:
    """Memory that search touches sooner or later: bytes, whether private or mapped."""
    vectors = 4 * rows * width
    centroids = 4 * kind.lists * width
    if kind.name == "hnsw":
        # The lowest level holds twice the links; levels above it add about 1 / links.
        return vectors + rows * (4 * (2 * kind.links + 2) + 16)
    if kind.name == "ivf_pq":
        return centroids + rows * (kind.code_bytes + ID_BYTES)
    return vectors + centroids + (rows * ID_BYTES if kind.lists else 0)


def choose_kind(rows: int, width: int, settings: IndexSettings) -> Kind:
    """The kind for K phrases; the rule is the table in docs/how_it_works/phrase_index.md.

    Args:
      rows: K.
      width: M.
      settings: what is asked.

    Raises:
      PhraseLensError: the kind that was asked for does not fit into the memory, or the
        recall is none.
    """
    if not 0 < settings.recall <= 1:
        raise PhraseLensError(f"--index_recall={settings.recall}", "above 0, at most 1", "Say .99.")

    def fits(kind: Kind) -> bool:
        return not settings.memory or resident_bytes(kind, rows, width) <= settings.memory

    if settings.kind != "auto":
        kind = kind_of(settings.kind, rows, width)
        if not fits(kind):
            raise PhraseLensError(
                f"--index_kind={settings.kind} of {rows:,} phrases",
                f"at most --index_memory={settings.memory:,} bytes, it takes about "
                f"{resident_bytes(kind, rows, width):,}",
                "Raise --index_memory, or leave the choice to --index_kind=auto.",
            )
        return kind
    if settings.recall >= 1:
        return kind_of("flat", rows, width)
    for name, suits in (
        ("flat", rows <= FLAT_MAX),
        ("hnsw", rows <= HNSW_MAX),
        ("ivf_flat", settings.recall > PQ_RECALL_MAX),
    ):
        kind = kind_of(name, rows, width)
        if suits and fits(kind):
            return kind
    return kind_of("ivf_pq", rows, width)


def training_rows(kind: Kind) -> int:
    """How many vectors train it well."""
    return TRAIN_PER_LIST * kind.lists
