"""The classifier of one image by its pixels and its words, and its two ablations."""

from model_code.models.family import Family, Metric

# What each classifier sees of an image. The same network, training and tuning for all three.
INPUTS = {
    "pixel": ("pixel_emb",),
    "text": ("text_emb",),
    "fused": ("text_emb", "pixel_emb"),
}

FUSION = Family(
    name="fusion",
    title="Fusion classifier",
    makes="labels",
    # Of any length: it is a setting of the networks that make them.
    reads=dict.fromkeys(INPUTS["fused"], (None,)),
    metrics={"top1": Metric("top-1"), "top5": Metric("top-5"), "map": Metric("mAP")},
    systems={"pixel": "pixel-only", "text": "text-only", "fused": "fused"},
    main="fused",
)
