"""The checksums of result files, as results/README.md defines them."""

import hashlib
import math
import struct

import pyarrow as pa
import pyarrow.parquet as pq

KEY = b"deepzero.sha256"
FILE_KEY = b"deepzero.file-sha256"
UNKNOWN = b"0" * 64
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


def place(content):
    """Where the checksum of a file's bytes stands; None if it says none."""
    at = content.rfind(FILE_KEY)
    start = at + len(FILE_KEY) + 2
    is_there = at >= 0 and content[start - 2 : start] == b"\x18\x40" and len(content) >= start + 64
    return slice(start, start + 64) if is_there else None


def file_checksum(content, place):
    """SHA-256 of a file's bytes with 64 zeros in place of it, in hexadecimal."""
    return hashlib.sha256(content[: place.start] + UNKNOWN + content[place.stop :]).hexdigest()


def write(table, path):
    """Writes a table with its checksums."""
    metadata = {**(table.schema.metadata or {}), KEY: checksum(table).encode(), FILE_KEY: UNKNOWN}
    temporary = path.with_name(f".{path.name}.tmp")
    pq.write_table(table.replace_schema_metadata(metadata), temporary, compression="zstd")
    content = bytearray(temporary.read_bytes())
    at = place(content)
    content[at] = file_checksum(content, at).encode()
    temporary.write_bytes(content)
    temporary.replace(path)
