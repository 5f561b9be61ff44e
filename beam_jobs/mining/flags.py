"""The flags of mine_pairs, free of Beam."""

import dataclasses

from beam_jobs.frame.ceiling_flags import CeilingConfig
from beam_jobs.frame.image_flags import ImageConfig
from beam_jobs.frame.reuse_flags import ReuseConfig
from beam_jobs.mining.log_flags import LogConfig
from schemas.console.flags import flag
from transforms.files.image_choice import IMAGE_FORMATS
from transforms.shards.ceilings import Ceilings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(LogConfig, ImageConfig, ReuseConfig, CeilingConfig):
    output: str = flag("Dataset to write.", role="output")
    days: str = flag(
        "Folder of days that mine_log wrote, instead of --log.", default="", role="input"
    )
    images: tuple[str, ...] = flag(
        "Images: files, globs, folders, tables, TFRecord, WebDataset.", default=(), role="input"
    )
    labels: tuple[str, ...] = flag(
        "Labels of images: tables with key, label and optionally split.", default=(), role="input"
    )
    image_columns: tuple[str, ...] = flag(
        "Columns of an image table, or features of a TFRecord, as field=column; fields are key, "
        "image (bytes) and path (relative to the table). Several images may share a key.",
        default=(),
    )
    label_columns: tuple[str, ...] = flag(
        "Columns of the label file as field=column; fields are key, label and split.", default=()
    )
    image_format: str = flag(
        "What the images are; auto goes by their names.", default="auto", choices=IMAGE_FORMATS
    )
    image_key: str = flag(
        "What the log calls an image file: its name without suffix, its name, or its path.",
        default="stem",
        choices=("stem", "name", "path"),
        essential=True,
    )
    near_duplicates: bool = flag("Take near duplicates for one image.", default=True)
    validation_share: float = flag(
        "Share of images held out to choose settings.", default=0.1, minimum=0, below=1
    )
    test_share: float = flag(
        "Share of images held out for the final figures.", default=0.2, minimum=0, below=1
    )
    min_users: int = flag(
        "People who must have typed a query, where people are known.",
        default=5,
        minimum=1,
        essential=True,
    )
    min_pair_clicks: float = flag("Fewest clicks that make a pair.", default=1.0, minimum=0)
    one_person_pairs: bool = flag(
        "Let the clicks of one person make a pair.", default=False, essential=True
    )
    max_images_per_query: int = flag(
        "Best images of a query that are kept.", default=10_000, minimum=1
    )
    max_queries_per_image: int = flag(
        "Best queries of an image that are kept.", default=256, minimum=1
    )
    evidence: str = flag(
        "What a pair's score is: the lower bound of its corrected click rate, or its clicks; auto "
        "is rate where the log tells of images that were shown and not clicked.",
        default="auto",
        choices=("auto", "rate", "count"),
    )
    max_linked_queries: int = flag(
        "Queries of an image that are associated.", default=32, minimum=0
    )
    variant_steps: int = flag(
        "Times that people must have gone from one spelling to another to merge them.",
        default=3,
        minimum=1,
    )
    head_queries: int = flag("Best supported queries that are head.", default=4_000_000, minimum=1)
    session_gap: float = flag("Seconds of pause that end a session.", default=1800.0, above=0)
    num_shards: int = flag(
        "Shards of every table, up to the next power of two; 0 goes by the size of the input.",
        default=0,
        minimum=0,
    )
    min_match: float = flag(
        "Share of the log's rows, or of the images, that must belong together, and so of the "
        "labels: the larger one counts.",
        default=0.05,
        minimum=0,
        maximum=1,
    )
    max_dead_images: float | None = flag(
        "Share of images that may die, where it is another than --max_dead_fraction.",
        default=None,
        minimum=0,
        maximum=1,
    )
    max_dead_labels: float | None = flag(
        "Share of rows of the label files that may die, likewise.",
        default=None,
        minimum=0,
        maximum=1,
    )
    renew_examination: bool = flag(
        "Fit anew how likely people look at each position: all scores may move. Else what the "
        "output's last run, or that of --reuse, has fitted is kept.",
        default=False,
    )
    dry_run: bool = flag("Print the plan and stop.", default=False, role="runtime", essential=True)

    def ceilings(self) -> Ceilings:
        """How many rows of each kind may die."""
        own = {"images": self.max_dead_images, "labels": self.max_dead_labels}
        shares = tuple((kind, share) for kind, share in own.items() if share is not None)
        return dataclasses.replace(super().ceilings(), of_kinds=shares)
