"""What each classifier sees of an image: names of its vectors."""

# The same network, training and tuning for all three.
INPUTS = {
    "pixel": ("pixel_emb",),
    "text": ("text_emb",),
    "fused": ("text_emb", "pixel_emb"),
}
