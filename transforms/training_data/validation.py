"""Checks rows against a TFMD schema, and says which row and field break it.

tensorflow-data-validation cannot be installed beside this stack, so the part of it that
the jobs need is here; schema and anomalies are its own protos.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import anomalies_pb2, schema_pb2

# (row, field, what is wrong)
Finding = tuple[int, str, str]


def validate(table: pa.Table, schema: schema_pb2.Schema) -> list[Finding]:
    """Finds the rows that break a schema.

    Checked for each feature: the column is there and has values where `presence` asks for
    all, the number of values (`shape`, `value_count`), the numbers are finite and within
    the `float_domain`, the strings are of the `string_domain`.

    Args:
      table: [n] rows; a column is a list or a scalar.
      schema: the schema.

    Returns:
      Findings, at most one a row and field.
    """
    findings: list[Finding] = []
    domains = {domain.name: set(domain.value) for domain in schema.string_domain}
    for feature in schema.feature:
        required = feature.presence.min_fraction == 1
        if feature.name not in table.column_names:
            if required:
                findings += [(row, feature.name, "missing") for row in range(table.num_rows)]
            continue
        findings += _validate_column(table[feature.name], feature, required, domains)
    return findings


def _validate_column(
    column: pa.ChunkedArray, feature: schema_pb2.Feature, required: bool, domains: dict[str, set]
) -> Iterable[Finding]:
    column = column.combine_chunks()
    is_list = pa.types.is_nested(column.type)
    nulls = column.is_null().to_numpy(zero_copy_only=False)
    if is_list:
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
        values, parents = pc.list_flatten(column), pc.list_parent_indices(column).to_numpy()
    else:
        lengths = np.where(nulls, 0, 1)
        values, parents = column.drop_null(), np.flatnonzero(~nulls)
    wrong: dict[int, str] = {}

    def note(rows: Iterable[int], text: str) -> None:
        for row in rows:
            wrong.setdefault(int(row), text)

    if required:
        note(np.flatnonzero(nulls), "missing")
    low, high = _value_counts(feature)
    bad = (lengths < low) | (lengths > high)
    for row in map(int, np.flatnonzero(bad & (required | (lengths > 0)))):
        note([row], f"{lengths[row]} values, expected {low if low == high else f'{low} to {high}'}")
    note(parents[values.is_null().to_numpy(zero_copy_only=False)], "a value is null")
    if pa.types.is_floating(values.type):
        numbers = values.to_numpy(zero_copy_only=False)
        note(parents[~np.isfinite(numbers)], "not finite")
        domain = feature.float_domain
        if domain.HasField("min"):
            note(parents[numbers < domain.min], f"below {domain.min:g}")
        if domain.HasField("max"):
            note(parents[numbers > domain.max], f"above {domain.max:g}")
    allowed = domains.get(feature.domain) or set(feature.string_domain.value)
    if allowed:
        unknown = [value not in allowed for value in values.to_pylist()]
        note(parents[np.array(unknown, bool)], f"not one of {sorted(allowed)}")
    return [(row, feature.name, text) for row, text in sorted(wrong.items())]


def _value_counts(feature: schema_pb2.Feature) -> tuple[int, float]:
    """The fewest and the most values that a feature may have."""
    if feature.HasField("shape"):
        size = int(np.prod([dim.size for dim in feature.shape.dim] or [1]))
        return size, size
    if feature.HasField("value_count"):
        return feature.value_count.min, feature.value_count.max or np.inf
    return 0, np.inf


def anomalies(counts: Iterable[tuple[tuple[str, str], int]]) -> str:
    """The Anomalies proto, as text, of ((field, what is wrong), rows) counts."""
    proto = anomalies_pb2.Anomalies()
    for (field, text), rows in sorted(counts):
        info = proto.anomaly_info[field]
        info.severity = anomalies_pb2.AnomalyInfo.ERROR
        info.short_description = "rows break the schema"
        info.reason.add(
            type=anomalies_pb2.AnomalyInfo.UNKNOWN_TYPE,
            short_description=text,
            description=f"{rows} rows",
        )
    return text_format.MessageToString(proto, as_utf8=True)
