"""SavedModels: graphs, which TensorFlow runs as they are.

A graph can open files and talk to the network. Ours compute: a graph with any such operation is
none of ours, and is not loaded. (What is left is C++ of TensorFlow that was given a stranger's
graph; transforms/models.py therefore loads only what a manifest names, by its checksum.)
"""

import os
from collections.abc import Iterator
from typing import Any

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from schemas.errors import PhraseLensError

# Reading a checkpoint and the vocabularies beside it is part of loading any SavedModel.
_NEEDED = ("RestoreV2", "SaveV2", "MergeV2Checkpoints", "InitializeTableFromTextFileV2")
_FORBIDDEN = (
    *("ReadFile", "WriteFile", "MatchingFiles", "WholeFileReader", "TextLineReader"),
    *("FixedLengthRecordReader", "TFRecordReader", "LMDBReader", "IdentityReader", "Dataset"),
    *("PyFunc", "Restore", "Save", "MergeV2", "InitializeTableFromTextFile", "Rpc", "DataService"),
    *("DecodeProto", "EncodeProto", "RemoteCall", "WriteSummary", "SummaryWriter", "SummaryFile"),
    *("DebugIdentity", "DebugNan", "DebugNumeric", "Checkpoint", "BigQuery", "PrintV2"),
)


def load(folder: str) -> Any:
    """`tf.saved_model.load`, of a graph that only computes.

    Args:
      folder: a local one.

    Raises:
      PhraseLensError: it is no SavedModel, or has an operation that reaches outside.
    """
    path = os.path.join(folder, "saved_model.pb")
    try:
        with open(path, "rb") as file:
            model = saved_model_pb2.SavedModel.FromString(file.read())
    except Exception as error:  # of protobuf, which has one of its own
        raise PhraseLensError(path, f"a SavedModel ({error})", "Run ./run.sh export.") from error
    if found := sorted({op for op in _operations(model) if is_forbidden(op)}):
        raise PhraseLensError(
            path,
            f"a graph that only computes, found {', '.join(found)}",
            "Load only models that PhraseLens exported.",
        )
    return tf.saved_model.load(folder)


def is_forbidden(operation: str) -> bool:
    """Whether an operation reaches files, the network or Python."""
    return operation not in _NEEDED and any(word in operation for word in _FORBIDDEN)


def _operations(model: saved_model_pb2.SavedModel) -> Iterator[str]:
    for graph in (meta.graph_def for meta in model.meta_graphs):
        yield from (node.op for node in graph.node)
        for function in graph.library.function:
            yield from (node.op for node in function.node_def)
