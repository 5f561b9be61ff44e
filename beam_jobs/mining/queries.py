"""From what people did to pairs, to queries, and to pairs of queries."""

import apache_beam as beam

from beam_jobs.mining.flags import Config
from schemas.runs.run import Run
from transforms.mining import associations, pairs, queries, spelling
from transforms.mining.images import SplitShares
from transforms.shards.blocks import GroupShards
from transforms.shards.outputs import COUNTS, DEAD, NOTES, SHARDS


def rules_of(config: Config) -> pairs.PairRules:
    return pairs.PairRules(
        min_users=config.min_users,
        min_pair_clicks=config.min_pair_clicks,
        one_person_pairs=config.one_person_pairs,
        max_images_per_query=config.max_images_per_query,
        max_queries_per_image=config.max_queries_per_image,
        evidence=config.evidence,
        max_linked_queries=config.max_linked_queries,
    )


class MinePairs(beam.PTransform):
    """Evidence → the table pairs.

    Input: what merged.py and images.py give out; {} where there are no images. Output: a dict with
    the shards; for what follows `known` (queries that may be shown), `variants` and `spellings`,
    `stats` and `edges` of queries; dead letters, counts and, where there are images, notes.

    Args:
      config: the flags.
      shares: of images held out, where there are no images that have a split.
      of_log: what the whole log says, for `pairs.Weigh` and those that follow.
    """

    def __init__(
        self,
        config: Config,
        shares: SplitShares,
        of_log: beam.pvalue.AsSingleton,
        run: Run,
        num_shards: int,
    ):
        super().__init__()
        self._config, self._shares, self._of_log = config, shares, of_log
        self._run, self._num_shards = run, num_shards

    def _group(self, **ids: str) -> GroupShards:
        return GroupShards(ids, self._num_shards, self._run.spill)

    def expand(self, log_and_images):
        log, images = log_and_images
        of_log, rules = self._of_log, rules_of(self._config)
        named, notes, counts = self._name_images(log["pairs"], images)
        weighed = (
            {"evidence": named}
            | "ByImage" >> self._group(evidence="image_id")
            | pairs.Weigh(of_log, rules)
        )
        chosen = (
            {"candidates": weighed.candidates, "users": log["users"], "texts": log["texts"]}
            | "ByCandidate"
            >> self._group(candidates="query_id", users="query_id", texts="query_id")
            | pairs.Choose(of_log, rules, self._run)
        )
        by_image = {"chosen": chosen.chosen}
        if images:
            by_image["splits"] = images["splits"]
        grouped = by_image | "ByChosenImage" >> self._group(**dict.fromkeys(by_image, "image_id"))
        spelled = {
            "steps": log["steps"],
            "known": chosen.known,
            "images": grouped,
        } | spelling.FindVariants(self._config.variant_steps, self._num_shards, self._run.spill)
        built = grouped | pairs.BuildPairs(
            self._run,
            of_log,
            beam.pvalue.AsSingleton(spelled.variants),
            rules,
            shares=None if images else self._shares,
            num_shards=self._num_shards,
        )
        counts = [*counts, *(step[COUNTS] for step in (weighed, chosen, built))]
        return notes | {
            SHARDS: built[SHARDS],
            "known": chosen.known,
            "variants": spelled.variants,
            "spellings": spelled.spellings,
            "stats": built.stats,
            "edges": built.edges,
            DEAD: chosen[DEAD],
            COUNTS: counts | "Counts" >> beam.Flatten(),
        }

    def _name_images(self, evidence, images):
        """The evidence by image instead of key; notes and counts of keys that are of none."""
        if not images:
            return evidence | "NameImages" >> beam.Map(pairs.name_images), {}, []
        joined = (
            {"evidence": evidence, "keys": images["keys"], "earlier": images["earlier"]}
            | "ByKey" >> self._group(evidence="key", keys="key", earlier="key")
            | pairs.JoinImages()
        )
        return joined.evidence, {NOTES: joined[NOTES]}, [joined[COUNTS]]


class MineQueryPairs(beam.PTransform):
    """Which queries want the same → shards of the table query_pairs.

    Input: what merged.py and `MinePairs` give out.
    """

    def __init__(self, run: Run, num_shards: int):
        super().__init__()
        self._run, self._num_shards = run, num_shards

    def expand(self, log_and_pairs):
        log, found = log_and_pairs
        variants = beam.pvalue.AsSingleton(found["variants"])
        steps = log["steps"] | "StepEdges" >> beam.Map(associations.step_edges)
        steps = (
            {"edges": steps, "known": found["known"]}
            | "KeepSteps" >> associations.KeepKnown(self._num_shards, self._run.spill)
            | "RenameSteps" >> beam.Map(associations.rename_queries, variants)
        )
        edges = (found["edges"], steps) | "Edges" >> beam.Flatten()
        return (
            {"edges": edges, "known": found["stats"]}
            | associations.KeepKnown(self._num_shards, self._run.spill)
            | associations.BuildQueryPairs(self._run, self._num_shards)
        )


class MineQueries(beam.PTransform):
    """What is known of every query → shards of the tables queries and query_days.

    Input: what merged.py and `MinePairs` give out.
    """

    def __init__(self, head_queries: int, run: Run, num_shards: int):
        super().__init__()
        self._head_queries, self._run, self._num_shards = head_queries, run, num_shards

    def expand(self, log_and_pairs):
        log, found = log_and_pairs
        variants = beam.pvalue.AsSingleton(found["variants"])
        ids = dict.fromkeys(("languages", "days", "known"), "query_id")
        history = (
            {
                "languages": log["languages"],
                "days": log["days"],
                "known": found["known"] | "KnownIds" >> beam.Map(queries.ids_of),
            }
            | "HistoryByQuery" >> GroupShards(ids, self._num_shards, self._run.spill)
            | queries.KeepHistory()
        )
        of_queries = {
            name: history[name] | f"Rename {name}" >> beam.Map(queries.rename_variants, variants)
            for name in ("languages", "days")
        }
        of_queries |= {name: found[name] for name in ("stats", "spellings")}
        of_queries |= {name: log[name] for name in ("texts", "users")}
        ids = dict.fromkeys(of_queries, "query_id")
        return (
            of_queries
            | "ByQuery" >> GroupShards(ids, self._num_shards, self._run.spill)
            | queries.BuildQueries(self._run, self._num_shards, self._head_queries)
        )
