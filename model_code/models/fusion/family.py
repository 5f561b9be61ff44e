"""The classifier of one image by its pixels and its words, and its two ablations."""

from model_code.models.family import Family, Metric

FUSION = Family(
    name="fusion",
    title="Fusion classifier",
    makes="labels",
    reads={"text_emb": (None,), "pixel_emb": (None,)},
    metrics={"top1": Metric("top-1"), "top5": Metric("top-5"), "map": Metric("mAP")},
    systems={"pixel": "pixel-only", "text": "text-only", "fused": "fused"},
    main="fused",
)
