"""SavedModels: graphs, which TensorFlow runs as they are.

A graph can open files and talk to the network. Ours compute, so a graph is loaded only if each of
its operations is known to compute and do nothing else: in its functions as in the graph itself,
called or not. What loading needs beside that is bound to the model's own folder: its variables,
which TensorFlow reads by itself, and its vocabularies, which a graph may name but not choose.
(What is left is C++ of TensorFlow that was given a stranger's graph; workers therefore load only
what a manifest names, by its checksum: transforms/inference/folders.py.)
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, node_def_pb2, op_def_pb2
from tensorflow.core.framework import types_pb2 as types
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2, saved_object_graph_pb2
from tensorflow.python.framework import op_def_registry

from schemas.base.errors import PhraseLensError
from schemas.console import program

# Operations without state whose only link to the world are numbers need no name here: a file, an
# address or a function is given as text, as a handle or as a function (`is_allowed`). Of those that
# take one of these, the ones that only compute:
_TEXT = """
    AsString DecodeBase64 EncodeBase64 Fingerprint ReduceJoin RegexFullMatch RegexReplace
    SdcaFprint SparseCrossV2 StaticRegexFullMatch StaticRegexReplace StringFormat StringJoin
    StringLength StringLower StringNGrams StringSplit StringSplitV2 StringStrip StringToHashBucket
    StringToHashBucketFast StringToHashBucketStrong StringToNumber StringUpper Substr UnicodeDecode
    UnicodeDecodeWithOffsets UnicodeEncode UnicodeTranscode UnsortedSegmentJoin
"""
_CODED = """
    DecodeAndCropJpeg DecodeBmp DecodeGif DecodeImage DecodeJpeg DecodeJxl DecodePaddedRaw
    DecodePng DecodeRaw DecodeWav DecodeWebP DeserializeManySparse EncodeJpeg
    EncodeJpegVariableQuality EncodePng EncodeWav ExtractJpegShape ParseExample ParseExampleV2
    ParseSequenceExample ParseSequenceExampleV2 ParseSingleExample ParseSingleSequenceExample
    ParseTensor SerializeTensor
"""
# Their text is the name of a variant: "ij,jk->ik", "NHWC", "bilinear".
_BY_VARIANT = """
    DataFormatDimMap DataFormatVecPermute DenseToDenseSetOperation DenseToSparseSetOperation Einsum
    ExtractGlimpse ExtractGlimpseV2 GatherNd ImageProjectiveTransformV2 ImageProjectiveTransformV3
    PreventGradient RaggedCross RaggedTensorToTensor ScaleAndTranslate ScaleAndTranslateGrad
    ScatterNd ScatterNdNonAliasingAdd SparseToSparseSetOperation TensorScatterAdd TensorScatterMax
    TensorScatterMin TensorScatterSub TensorScatterUpdate UniformQuantizedConvolution
    UniformQuantizedConvolutionHybrid
"""
_COLLECTIONS = """
    EmptyTensorList EmptyTensorMap RaggedTensorFromVariant RaggedTensorToVariant
    RaggedTensorToVariantGradient TensorListConcat TensorListConcatLists TensorListConcatV2
    TensorListElementShape TensorListFromTensor TensorListGather TensorListGetItem TensorListLength
    TensorListPopBack TensorListPushBack TensorListPushBackBatch TensorListReserve TensorListResize
    TensorListScatter TensorListScatterIntoExistingList TensorListScatterV2 TensorListSetItem
    TensorListSplit TensorListStack TensorMapErase TensorMapHasKey TensorMapInsert TensorMapLookup
    TensorMapSize TensorMapStackKeys
"""
# The functions that these call are read like any other.
_CONTROL = "Enter PartitionedCall StatelessCase StatelessIf StatelessWhile"
# Operations with state that they keep in memory, or with effects on nothing but memory.
_VARIABLES = """
    AssignAddVariableOp AssignSubVariableOp AssignVariableOp DestroyResourceOp DisableCopyOnRead
    ReadVariableOp ResourceGather ResourceGatherNd ResourceScatterAdd ResourceScatterDiv
    ResourceScatterMax ResourceScatterMin ResourceScatterMul ResourceScatterNdAdd
    ResourceScatterNdMax ResourceScatterNdMin ResourceScatterNdSub ResourceScatterNdUpdate
    ResourceScatterSub ResourceScatterUpdate ResourceStridedSliceAssign VarHandleOp
    VarIsInitializedOp VariableShape
"""
_TABLES = """
    AnonymousHashTable AnonymousMutableDenseHashTable AnonymousMutableHashTable
    AnonymousMutableHashTableOfTensors HashTableV2 InitializeTableV2 LookupTableExportV2
    LookupTableFindV2 LookupTableImportV2 LookupTableInsertV2 LookupTableRemoveV2
    LookupTableSizeV2 MutableDenseHashTableV2 MutableHashTableOfTensorsV2 MutableHashTableV2
"""
_CONTROL_WITH_STATE = """
    Assert Case CheckNumerics CheckNumericsV2 CudnnRNN CudnnRNNV2 CudnnRNNV3 DeviceIndex Empty
    GuaranteeConst If IsTensorFloat32Enabled StatefulPartitionedCall TensorArrayCloseV3
    TensorArrayConcatV3 TensorArrayGatherV3 TensorArrayReadV3 TensorArrayScatterV3
    TensorArraySizeV3 TensorArraySplitV3 TensorArrayV3 TensorArrayWriteV3 While
"""
_RANDOM = """
    Multinomial ParameterizedTruncatedNormal RandomGamma RandomPoissonV2 RandomShuffle
    RandomStandardNormal RandomUniform RandomUniformInt RngReadAndSkip RngSkip
    SampleDistortedBoundingBox SampleDistortedBoundingBoxV2 StatefulRandomBinomial
    StatefulStandardNormal StatefulStandardNormalV2 StatefulTruncatedNormal StatefulUniform
    StatefulUniformFullInt StatefulUniformInt StatelessRandomGetAlg TruncatedNormal
"""
_NAMED = frozenset(
    f"{_TEXT} {_CODED} {_BY_VARIANT} {_COLLECTIONS} {_CONTROL} "
    f"{_VARIABLES} {_TABLES} {_CONTROL_WITH_STATE} {_RANDOM}".split()
)
# A vocabulary: allowed where its file can only be one of the model's own (`_Files`).
_VOCABULARY = "InitializeTableFromTextFileV2"
# What saves and restores the variables from outside: in the functions that nothing else can call.
_SAVER = frozenset(("SaveV2", "RestoreV2", "MergeV2Checkpoints", "ShardedFilename"))
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_HANDLES = (types.DT_STRING, types.DT_RESOURCE, types.DT_VARIANT, types.DT_STRING_REF)
_FUNCTIONS = ("func", "list(func)")
_TEXTS = ("string", "list(string)")


def load(folder: str) -> Any:
    """`tf.saved_model.load`, of a graph that only computes.

    Args:
      folder: a local one.

    Raises:
      PhraseLensError: see `check`.
    """
    check(folder)
    return tf.saved_model.load(folder)


def check(folder: str) -> None:
    """Refuses a SavedModel that reaches outside of itself.

    Args:
      folder: a local one.

    Raises:
      PhraseLensError: it is no SavedModel, or it has an operation that is not known to compute
        and do nothing else.
    """
    path = os.path.join(folder, "saved_model.pb")
    try:
        with open(path, "rb") as file:
            model = saved_model_pb2.SavedModel.FromString(file.read())
    except Exception as error:  # of protobuf, which has one of its own
        raise PhraseLensError(
            path, f"a SavedModel ({error})", f"Run {program.command('export_model')}."
        ) from error
    if len(model.meta_graphs) != 1 or not model.meta_graphs[0].HasField("object_graph_def"):
        raise PhraseLensError(
            path,
            "one graph with its objects, as TensorFlow 2 writes them",
            "Save it again with tf.saved_model.save of TensorFlow 2.",
        )
    (graph,) = model.meta_graphs
    if found := sorted(_foreign_operations(graph)):
        raise PhraseLensError(
            path,
            f"a graph that only computes, found {', '.join(found)}",
            "Take these operations out of the model, or load one that "
            f"{program.command('export_model')} wrote.",
        )
    inside = os.path.realpath(folder)
    for asset in graph.asset_file_def:
        place = os.path.realpath(os.path.join(folder, "assets", asset.filename))
        if os.path.commonpath([inside, place]) != inside:
            raise PhraseLensError(
                path,
                f"files of its own, found the asset {asset.filename!r}",
                "Copy that file into the model's folder, and save the model again.",
            )


def is_allowed(operation: str) -> bool:
    """Whether an operation of TensorFlow computes and does nothing else.

    Without state, and with nothing but numbers, switches and choices of a list going in, it cannot
    even be told of a file, an address or a piece of code. All others are allowed by name.
    """
    if operation in _NAMED:
        return True
    found = op_def_registry.get(operation)
    # Those with an underscore are made by TensorFlow while it runs a graph.
    return found is not None and not operation.startswith("_") and _only_numbers(found)


def _only_numbers(operation: op_def_pb2.OpDef) -> bool:
    has_function = any(attr.type in _FUNCTIONS for attr in operation.attr)
    has_text = any(a.type in _TEXTS and not a.allowed_values.list.s for a in operation.attr)
    arguments = (*operation.input_arg, *operation.output_arg)
    has_handle = any(argument.type in _HANDLES for argument in arguments)
    return not (operation.is_stateful or has_function or has_text or has_handle)


def _foreign_operations(graph: meta_graph_pb2.MetaGraphDef) -> set[str]:
    """Operations of a graph and of its functions that it must not have."""
    library = graph.graph_def.library
    functions = {function.signature.name: function for function in library.function}
    # A name that means two things could be read as one here, and run as the other.
    found = {name for name in functions if op_def_registry.get(name) is not None}
    found |= {n.op for n in graph.graph_def.node if n.op not in functions and not is_allowed(n.op)}
    saving = _saver_functions(graph, functions)
    files = _Files(functions, graph.object_graph_def, _swapped(graph))
    for name, function in functions.items():
        for node in function.node_def:
            known = (
                node.op in functions
                or is_allowed(node.op)
                or (name in saving and node.op in _SAVER)
                or (node.op == _VOCABULARY and files.is_own(name, _input(node, 1)))
            )
            if not known:
                found.add(node.op)
    return found


def _saver_functions(
    graph: meta_graph_pb2.MetaGraphDef, functions: dict[str, function_pb2.FunctionDef]
) -> set[str]:
    """Functions that are called by nothing but the two nodes which save and restore variables.

    `tf.saved_model.load` calls them never: it reads the variables of the model's folder by itself.
    """
    calls = {name: set(_called(f.node_def)) & set(functions) for name, f in functions.items()}
    saver = graph.saver_def
    ends = {saver.save_tensor_name.partition(":")[0], saver.restore_op_name}
    at_ends = [node for node in graph.graph_def.node if node.name in ends]
    elsewhere = [node for node in graph.graph_def.node if node.name not in ends]
    saving = _reachable(set(_called(at_ends)) & set(functions), calls)
    others = set(graph.object_graph_def.concrete_functions) | set(_called(elsewhere))
    others |= _swapped(graph) | (set(functions) - saving)
    return saving - _reachable(others & set(functions), calls)


def _swapped(graph: meta_graph_pb2.MetaGraphDef) -> set[str]:
    """Functions that TensorFlow may run where no node calls them: instead of one that claims to do
    the same, or as the gradient of one."""
    library = graph.graph_def.library
    return {f.signature.name for f in library.function if "api_implements" in f.attr} | {
        gradient.gradient_func for gradient in library.gradient
    }


def _reachable(names: set[str], calls: dict[str, set[str]]) -> set[str]:
    """Functions of these names, and all that they call."""
    found: set[str] = set()
    ahead = list(names)
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead.extend(calls[name])
    return found


def _called(nodes: Iterable[node_def_pb2.NodeDef]) -> Iterator[str]:
    """Names of what nodes call: their own operation, and the functions that they are given."""
    for node in nodes:
        yield node.op
        for value in node.attr.values():
            yield from _functions_of(value)


def _input(node: node_def_pb2.NodeDef, place: int) -> str:
    """What a node is given there; "" for nothing."""
    return node.input[place] if place < len(node.input) else ""


def _functions_of(value: attr_value_pb2.AttrValue) -> Iterator[str]:
    for function in (value.func, *value.list.func):
        if function.name:
            yield function.name
        for inner in function.attr.values():
            yield from _functions_of(inner)


@dataclasses.dataclass(frozen=True)
class _Files:
    """Which arguments of a graph's functions are places of the model's own files, and no others.

    Attributes:
      functions: those of the graph, by name.
      objects: whose functions are bound to variables, tables and files.
      swapped: functions that TensorFlow may put in the place of others.
    """

    functions: Mapping[str, function_pb2.FunctionDef]
    objects: saved_object_graph_pb2.SavedObjectGraph
    swapped: Set[str]

    def is_own(self, function: str, argument: str, callers: frozenset[str] = frozenset()) -> bool:
        """Whether all that call a function give it one of the model's files as this argument.

        Args:
          function: its name.
          argument: the name of its argument.
          callers: functions that were come through already.
        """
        names = [arg.name for arg in self.functions[function].signature.input_arg]
        if argument not in names or function in self.swapped or function in callers:
            return False
        place, found = names.index(argument), []
        if function in self.objects.concrete_functions:
            found.append(self._is_bound(function, place - len(names)))
        for caller, body in self.functions.items():
            for node in body.node_def:
                if function in _called([node]):
                    given = _input(node, place) if node.op in _CALLS else ""
                    found.append(self.is_own(caller, given, callers | {function}))
        return bool(found) and all(found)

    def _is_bound(self, function: str, place: int) -> bool:
        """Whether an argument, counted from the last, is bound to a file."""
        bound = self.objects.concrete_functions[function].bound_inputs
        if len(bound) + place < 0:
            return False  # Whoever calls it gives this one.
        node = bound[len(bound) + place]
        return node < len(self.objects.nodes) and self.objects.nodes[node].HasField("asset")
