"""Evidence → pairs: which image is a good answer to which query, and how sure that is."""

import dataclasses
import hashlib

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.runs.run import Run
from schemas.tables import mined as tables
from transforms.mining import associations, key_match
from transforms.mining.days import PAIR_EVIDENCE, QUERY_USERS
from transforms.mining.events import CLICK_UNIT, QUERY_TEXTS
from transforms.mining.evidence import add_up
from transforms.mining.examination import EXAMINED_UNIT, Log, wilson_lower_bound
from transforms.mining.images import (
    EARLIER_KEYS,
    IMAGE_KEYS,
    SPLIT_OF_IMAGES,
    SplitShares,
    split_of,
)
from transforms.mining.queries import query_stats, rename_variants, texts_of
from transforms.shards.blocks import from_blocks
from transforms.shards.outputs import COUNTS, DEAD, NOTES, SHARDS, Output, par_do, write_sorted

IMAGE_EVIDENCE = pa.schema(
    [("image_id", pa.string()), *[f for f in PAIR_EVIDENCE if f.name != "key"]]
)
CANDIDATES = pa.schema(
    [
        ("image_id", pa.string()),
        ("query_id", pa.int64()),
        ("clicks", pa.int64()),  # in 1/CLICK_UNIT
        ("examined", pa.int64()),  # in 1/EXAMINED_UNIT
        ("score", pa.float64()),  # 0 for an image that was shown and never chosen
    ]
)
# A query that may leave, and how often it was clicked, in 1/CLICK_UNIT.
KNOWN_QUERIES = pa.schema([("query_id", pa.int64()), ("text", pa.string()), ("clicks", pa.int64())])


@dataclasses.dataclass(frozen=True)
class PairRules:
    """What makes a pair; see the flags of beam_jobs/mining/flags.py.

    Attributes:
      min_users: people who must have typed a query, where people are known.
      min_pair_clicks: fewest clicks of a pair.
      one_person_pairs: whether the clicks of one person make a pair.
      max_images_per_query, max_queries_per_image: the best that are kept.
      evidence: "rate", "count", or "auto": rate where the log tells of images not clicked.
      min_skips: examined impressions without a click that say no.
      max_linked_queries: queries of an image that are associated.
    """

    min_users: int = 5
    min_pair_clicks: float = 1.0
    one_person_pairs: bool = False
    max_images_per_query: int = 10_000
    max_queries_per_image: int = 256
    evidence: str = "auto"
    min_skips: int = 3
    max_linked_queries: int = 32


def join_images(evidence: pa.Table, keys: pa.Table, earlier: pa.Table) -> Output:
    """Finds the images that the log talks of; rows of others, as of a larger collection, go.

    Args:
      evidence: rows of PAIR_EVIDENCE of one shard of keys.
      keys: rows of IMAGE_KEYS of the same shard. A key may name several images (photos of
        one item); each gets the evidence, several copies of one image get it once.
      earlier: rows of EARLIER_KEYS of the same shard.

    Returns:
      Table `evidence` (IMAGE_EVIDENCE), counts of `clicks` (rows of the log) and of
      `image_keys`, notes.
    """
    keys = keys.group_by(IMAGE_KEYS.names, use_threads=False).aggregate([])
    known = key_match.match(
        evidence["key"],
        keys["key"],
        "clicks",
        found="in_log",
        weights=evidence["rows"],
        earlier=earlier["key"],
    )
    retired = earlier["key"].filter(pc.invert(pc.is_in(earlier["key"], value_set=keys["key"])))
    counts = known.counts | {
        "image_keys.all": pc.count_distinct(keys["key"]).as_py(),
        "image_keys.retired": pc.count_distinct(retired).as_py(),
    }
    joined = evidence.filter(known.is_known).join(keys, "key", join_type="inner")
    found = joined.select(IMAGE_EVIDENCE.names).cast(IMAGE_EVIDENCE)
    return Output({"evidence": found}, (), counts, notes=known.notes)


def name_images(evidence: pa.Table) -> pa.Table:
    """Takes each key for an image of its own: rows of PAIR_EVIDENCE → IMAGE_EVIDENCE."""
    keys = evidence["key"].combine_chunks().dictionary_encode()
    ids = pa.array([image_id_of_key(key) for key in keys.dictionary.to_pylist()], pa.string())
    return evidence.append_column("image_id", ids.take(keys.indices)).select(IMAGE_EVIDENCE.names)


def image_id_of_key(key: str) -> str:
    """32 hex digits that stand for an image of which nothing but the key is known (BLAKE2b)."""
    return hashlib.blake2b(key.encode(), digest_size=16).hexdigest()


def score_of(clicks: np.ndarray, examined: np.ndarray, log: Log, rules: PairRules) -> np.ndarray:
    """[n] float64: how good an answer an image is, from what CANDIDATES hold of it."""
    counted = clicks / CLICK_UNIT
    has_rates = log.has_rates if rules.evidence == "auto" else rules.evidence == "rate"
    return wilson_lower_bound(counted, examined / EXAMINED_UNIT) if has_rates else counted


def weigh(evidence: pa.Table, log: Log, rules: PairRules) -> Output:
    """Adds up the evidence of each pair and scores it.

    Args:
      evidence: rows of IMAGE_EVIDENCE of one shard of images.
      log: what is known of the whole log.
      rules: see `PairRules`.

    Returns:
      Table `candidates` (CANDIDATES): possible pairs, and, with score 0, the queries for
      which an image was refused; counts of `pairs`.
    """
    examination = pa.array(log.examination)
    examined = pc.multiply(evidence["impressions"], examination.take(evidence["position"]))
    evidence = evidence.append_column("examined", examined)
    keys = ["image_id", "query_id"]
    pairs = add_up(evidence, keys, _WEIGHED, first_person="min", last_person="max")
    clicks = pairs["clicks"].to_numpy()
    counted = clicks / CLICK_UNIT
    seen = np.maximum(pairs["examined"].to_numpy(), clicks * (EXAMINED_UNIT // CLICK_UNIT))
    score = score_of(clicks, seen, log, rules)
    one = pc.fill_null(pc.equal(pairs["first_person"], pairs["last_person"]), False).to_numpy()
    is_clicked = clicks > 0
    too_few = is_clicked & (counted < rules.min_pair_clicks)
    by_one = is_clicked & ~too_few & one & (not rules.one_person_pairs)
    kept = is_clicked & ~too_few & ~by_one
    refused = ~is_clicked & (seen >= rules.min_skips * EXAMINED_UNIT)
    candidates = pa.table(
        [pairs["image_id"], pairs["query_id"], clicks, seen, np.where(kept, score, 0)], CANDIDATES
    )
    chosen = candidates.filter(pa.array(kept))
    best = best_rows(chosen, "query_id", "image_id", rules.max_images_per_query)
    counts = {
        "pairs.in": int(is_clicked.sum()),
        "pairs.dropped_few_clicks": int(too_few.sum()),
        "pairs.dropped_one_person": int(by_one.sum()),
        "pairs.dropped_query_cap": len(chosen) - len(best),
    }
    skipped = candidates.filter(pa.array(refused))
    skipped = best_rows(skipped, "image_id", "query_id", rules.max_linked_queries, "examined")
    return Output({"candidates": pa.concat_tables([best, skipped])}, (), counts)


_WEIGHED = pa.schema(
    [
        ("image_id", pa.string()),
        ("query_id", pa.int64()),
        ("clicks", pa.int64()),
        ("examined", pa.int64()),
        ("first_person", pa.int64()),
        ("last_person", pa.int64()),
    ]
)


def best_rows(rows: pa.Table, of: str, tie: str, most: int, by: str = "score") -> pa.Table:
    """The best rows of each value of a column.

    Args:
      rows: rows of CANDIDATES.
      of: the column whose values have `most` rows at most.
      tie: the column that decides between equal ones, upwards.
      most: rows that are kept.
      by: the column that is best when it is largest; then clicks decide.
    """
    sizes = pc.value_counts(rows[of])
    if not len(sizes) or pc.max(sizes.field("counts")).as_py() <= most:
        return rows
    rows = rows.sort_by(
        [(of, "ascending"), (by, "descending"), ("clicks", "descending"), (tie, "ascending")]
    )
    values = rows[of].combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    places = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    return rows.filter(pa.array(places < most))


def choose(
    candidates: pa.Table, users: pa.Table, texts: pa.Table, log: Log, rules: PairRules, *, run: Run
) -> Output:
    """Lets only those queries out that enough people typed.

    Args:
      candidates: rows of CANDIDATES of one shard of queries.
      users: rows of QUERY_USERS of the same shard.
      texts: rows of QUERY_TEXTS of the same shard.
      log: what is known of the whole log.
      rules: see `PairRules`.
      run: the run, named in dead letters.

    Returns:
      Tables `chosen` (CANDIDATES) and `known` (KNOWN_QUERIES), dead letters of the texts of known
      queries whose id is another text's, counts of `pairs` and of such `query_texts`.
    """
    is_pair = pc.greater(candidates["score"], 0)
    before = pc.sum(is_pair).as_py() or 0
    if log.has_users:
        counted = add_up(users, ["query_id"], QUERY_USERS)
        enough = counted.filter(pc.greater_equal(counted["users"], rules.min_users))["query_id"]
        candidates = candidates.filter(
            pc.is_in(candidates["query_id"], value_set=enough.combine_chunks())
        )
    is_pair = pc.greater(candidates["score"], 0)
    allowed = candidates.filter(is_pair)
    best = best_rows(allowed, "query_id", "image_id", rules.max_images_per_query)
    counts = {
        "pairs.dropped_few_users": before - len(allowed),
        "pairs.dropped_query_cap": len(allowed) - len(best),
    }
    refused = candidates.filter(pc.invert(is_pair))
    known = best.group_by("query_id", use_threads=False).aggregate([("clicks", "sum")])
    told = texts_of(known["query_id"].combine_chunks(), texts, run)
    texts, counts = told.tables["texts"], counts | told.counts
    place = pc.index_in(known["query_id"], value_set=texts["query_id"].combine_chunks())
    known = pa.table(
        [known["query_id"], texts["query"].take(place), known["clicks_sum"]], KNOWN_QUERIES
    )
    chosen = {"chosen": pa.concat_tables([best, refused]), "known": known}
    return Output(chosen, told.dead, counts)


def build_pairs(
    chosen: pa.Table, splits: pa.Table, variants: pa.Table, log: Log, rules: PairRules
) -> Output:
    """Makes the pairs of some images.

    Args:
      chosen: rows of CANDIDATES, all of each image's.
      splits: columns image_id and split, of the same images at least.
      variants: rows of queries.VARIANTS.
      log: what is known of the whole log.
      rules: see `PairRules`.

    Returns:
      Tables `pairs` (tables.PAIRS) and `refused` (CANDIDATES of score 0), counts of `pairs`.
    """
    is_pair = pc.greater(chosen["score"], 0)
    pairs, refused = chosen.filter(is_pair), chosen.filter(pc.invert(is_pair))
    before = len(pairs)
    if len(variants):
        pairs, refused = (
            add_up(rename_variants(rows, variants), ["image_id", "query_id"], CANDIDATES)
            for rows in (pairs, refused)
        )
        clicks, examined = pairs["clicks"].to_numpy(), pairs["examined"].to_numpy()
        score = pa.array(score_of(clicks, examined, log, rules))
        pairs = pairs.set_column(CANDIDATES.names.index("score"), "score", score)
        # Refused by those who typed one spelling, chosen by those who typed another.
        keys = ["image_id", "query_id"]
        refused = refused.join(pairs.select(keys), keys, join_type="left anti")
    merged = len(pairs)
    pairs = best_rows(pairs, "image_id", "query_id", rules.max_queries_per_image)
    counts = {
        "pairs.out": len(pairs),
        "pairs.dropped_variant": before - merged,
        "pairs.dropped_image_cap": merged - len(pairs),
    }
    # Sums of floats depend on their order.
    pairs = pairs.sort_by([("image_id", "ascending"), ("query_id", "ascending")])
    totals = pairs.group_by("image_id", use_threads=False).aggregate([("score", "sum")])
    pairs = pairs.join(totals, "image_id").join(splits, "image_id")
    pairs = pa.table(
        {
            "image_id": pairs["image_id"],
            "query_id": pairs["query_id"],
            "split": pairs["split"],
            "clicks": pc.divide(pairs["clicks"].cast(pa.float64()), float(CLICK_UNIT)),
            "examined": pc.divide(pairs["examined"].cast(pa.float64()), float(EXAMINED_UNIT)),
            "score": pairs["score"],
            "weight": pc.divide(pairs["score"], pairs["score_sum"]).cast(pa.float32()),
        },
        tables.PAIRS,
    )
    return Output({"pairs": pairs, "refused": refused}, (), counts)


class JoinImages(beam.PTransform):
    """Shards of keys ({evidence, keys, earlier}) → tagged `evidence`, `counts`, `notes`."""

    def _join(self, shard):
        _, blocks = shard
        schemas = {"evidence": PAIR_EVIDENCE, "keys": IMAGE_KEYS, "earlier": EARLIER_KEYS}
        tables = [from_blocks(blocks[name], schema) for name, schema in schemas.items()]
        yield from join_images(*tables).tagged()

    def expand(self, shards):
        return shards | par_do(self._join, tags=("evidence", COUNTS, NOTES))


class Weigh(beam.PTransform):
    """Shards of images ({evidence}) → tagged `candidates`, `counts`."""

    def __init__(self, log: beam.pvalue.AsSingleton, rules: PairRules):
        super().__init__()
        self._log, self._rules = log, rules

    def _weigh(self, shard, log):
        _, blocks = shard
        evidence = from_blocks(blocks["evidence"], IMAGE_EVIDENCE)
        yield from weigh(evidence, log, self._rules).tagged()

    def expand(self, shards):
        return shards | par_do(self._weigh, self._log, tags=("candidates", COUNTS))


class Choose(beam.PTransform):
    """Shards of queries ({candidates, users, texts}) → tagged `chosen`, `known`, dead, counts."""

    def __init__(self, log: beam.pvalue.AsSingleton, rules: PairRules, run: Run):
        super().__init__()
        self._log, self._rules, self._run = log, rules, run

    def _choose(self, shard, log):
        _, blocks = shard
        candidates = from_blocks(blocks["candidates"], CANDIDATES)
        users = from_blocks(blocks["users"], QUERY_USERS)
        texts = from_blocks(blocks["texts"], QUERY_TEXTS)
        yield from choose(candidates, users, texts, log, self._rules, run=self._run).tagged()

    def expand(self, shards):
        return shards | par_do(self._choose, self._log, tags=("chosen", "known", DEAD, COUNTS))


class BuildPairs(beam.PTransform):
    """Shards of images ({chosen, splits}) → tagged `shards`, `stats`, `edges`, `counts`.

    Args:
      log: what is known of the whole log.
      variants: rows of queries.VARIANTS.
      shares: of held-out images, or None where the shards bring the splits.
    """

    def __init__(
        self,
        run: Run,
        log: beam.pvalue.AsSingleton,
        variants: beam.pvalue.AsSingleton,
        rules: PairRules,
        *,
        shares: SplitShares | None,
        num_shards: int,
    ):
        super().__init__()
        self._run, self._log, self._variants = run, log, variants
        self._rules, self._shares, self._num_shards = rules, shares, num_shards

    def _build(self, shard, log, variants):
        index, blocks = shard
        chosen = from_blocks(blocks["chosen"], CANDIDATES)
        if self._shares:
            image_ids = pc.unique(chosen["image_id"])
            split = [split_of(image_id, self._shares) for image_id in image_ids.to_pylist()]
            splits = pa.table([image_ids, pa.array(split, pa.string())], SPLIT_OF_IMAGES)
        else:
            splits = from_blocks(blocks["splits"], SPLIT_OF_IMAGES)
        built = build_pairs(chosen, splits, variants, log, self._rules)
        pairs = built.tables["pairs"]
        if pairs.num_rows:
            keys = ["image_id", "query_id"]
            shard = write_sorted(
                self._run, pairs, "pairs", index, num_shards=self._num_shards, keys=keys
            )
            yield beam.pvalue.TaggedOutput(SHARDS, shard)
        train = pairs.filter(pc.equal(pairs["split"], "train"))
        most = self._rules.max_linked_queries
        edges = [
            associations.co_clicks(train, most),
            associations.skips(train, built.tables["refused"], most),
        ]
        found = {"stats": query_stats(pairs), "edges": associations.sum_edges(edges)}
        yield from Output(found, (), built.counts).tagged()

    def expand(self, shards):
        return shards | par_do(
            self._build, self._log, self._variants, tags=(SHARDS, COUNTS, "stats", "edges")
        )
