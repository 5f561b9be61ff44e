"""On what device, in what precision and in what batches networks run; free of TensorFlow."""

import dataclasses
from collections.abc import Mapping
from typing import Any, overload

from schemas.console.flags import flag

DEVICES = ("auto", "cpu", "gpu", "tpu")
TRAINING_DEVICES = ("auto", "cpu", "gpu")
BACKBONES = ("resnet101", "resnet50", "mobilenet", "densenet121", "convnext_base", "small_resnet")
PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")


def training_device() -> Any:
    """The flag --device of the commands that train."""
    return flag(
        "Where it trains; auto takes a GPU where there is one.",
        default="auto",
        role="runtime",
        choices=TRAINING_DEVICES,
        essential=True,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """Flags of every job that runs networks: its config is a subclass."""

    batch_size: int = flag("Images that go through the networks at once.", default=32, minimum=1)
    batch_bytes: int = flag(
        "Bytes of decoded pixels at once: large photos are decoded a few at a time.",
        default=256 << 20,
        role="runtime",
        minimum=1,
    )
    device: str = flag(
        "Where the networks run; auto takes a GPU where there is one.",
        default="auto",
        role="runtime",
        choices=DEVICES,
        essential=True,
    )
    tf_threads: int = flag(
        "TensorFlow's threads in a worker process; 0 for the machine's cores shared out among "
        "its processes.",
        default=0,
        role="runtime",
        minimum=0,
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddingSettings(InferenceSettings):
    """Flags of the jobs that embed images."""

    precision: str = flag(
        "Of the image networks: mixed_float16 for GPUs, mixed_bfloat16 for TPUs and newer GPUs.",
        default="float32",
        choices=PRECISIONS,
    )


def same_precision(earlier: Mapping[str, Any], config: EmbeddingSettings) -> bool:
    """Whether the settings of an earlier run's manifest have a job's precision."""
    return earlier.get("precision", "float32") == config.precision


@overload
def of_config(config: EmbeddingSettings) -> EmbeddingSettings: ...


@overload
def of_config(config: InferenceSettings) -> InferenceSettings: ...


def of_config(config: InferenceSettings) -> InferenceSettings:
    """The settings that a job's config holds, without its other flags."""
    kind = EmbeddingSettings if isinstance(config, EmbeddingSettings) else InferenceSettings
    return kind(**{field.name: getattr(config, field.name) for field in dataclasses.fields(kind)})
