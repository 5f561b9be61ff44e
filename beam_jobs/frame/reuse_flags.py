"""Flags of every job that takes over what an earlier run made: its config is a subclass."""

import dataclasses

from schemas.console.flags import flag


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReuseConfig:
    reuse: str = flag(
        "An earlier output: what was made of the same images, with the same networks and limits, "
        "is taken from it.",
        default="",
        role="input",
        essential=False,
    )
    retry_dead: bool = flag(
        "Try again what died in the last run of the same work, such as images that could not be "
        "fetched; all else is taken over from it.",
        default=False,
        role="runtime",
    )
    check_reused: float = flag(
        "Share of the shards taken over that are compared with their checksums before; all are "
        "read with those of their pages.",
        default=1.0,
        minimum=0,
        maximum=1,
        role="runtime",
    )
