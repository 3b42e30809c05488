"""The checksum of a result file's content, as results/README.md defines it."""

import hashlib
import math
import struct

import pyarrow as pa

KEY = b"deepzero.sha256"
NAN = struct.pack("<Q", 0x7FF8000000000000)


def text(value):
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def number(value):
    return NAN if math.isnan(value) else struct.pack("<d", value)


TYPES = {
    pa.bool_(): ("bool", lambda value: struct.pack("<B", value)),
    pa.uint32(): ("u32", lambda value: struct.pack("<I", value)),
    pa.uint64(): ("u64", lambda value: struct.pack("<Q", value)),
    pa.int64(): ("i64", lambda value: struct.pack("<q", value)),
    pa.float64(): ("f64", number),
    pa.string(): ("str", text),
    pa.large_string(): ("str", text),
    pa.string_view(): ("str", text),
}


def checksum(table):
    """SHA-256 of a table's names, types, nulls and values, in hexadecimal."""
    hasher = hashlib.sha256(struct.pack("<QQ", table.num_columns, table.num_rows))
    for name, column in zip(table.column_names, table.columns):
        kind, encode = TYPES[column.type]
        hasher.update(text(name) + text(kind))
        values = column.to_pylist()
        hasher.update(b"".join(b"\0" if value is None else b"\1" + encode(value) for value in values))
    return hasher.hexdigest()


def sealed(table):
    """The table with its checksum."""
    metadata = {**(table.schema.metadata or {}), KEY: checksum(table).encode()}
    return table.replace_schema_metadata(metadata)
