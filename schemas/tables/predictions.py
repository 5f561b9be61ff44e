"""The Arrow schema of what the classifier says of images."""

import pyarrow as pa

# For each label, for each phrase: by how much it moved the label's logit.
PHRASE_EFFECTS = pa.list_(pa.list_(pa.float32()))

PREDICTIONS = pa.schema(
    [
        ("key", pa.string()),
        ("image_id", pa.string()),
        ("labels", pa.list_(pa.string())),  # most probable first
        ("probabilities", pa.list_(pa.float32())),
        ("phrases", pa.list_(pa.string())),
        ("phrase_scores", pa.list_(pa.float32())),
        ("phrase_effects", PHRASE_EFFECTS),
        ("model_fingerprint", pa.string()),
    ]
)
