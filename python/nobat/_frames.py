"""Data frames as tables: Arrow where pyarrow is installed, else pandas' own JSON.

The server matches columns to inputs by name; nothing here knows a model.
"""

from __future__ import annotations

from typing import Any

from .errors import InvalidInput

ARROW = "application/vnd.apache.arrow.stream"


def is_frame(value: object) -> bool:
    """Whether it is a frame of pandas, polars or pyarrow, without importing any of them."""
    library = type(value).__module__.partition(".")[0]
    return library in ("pandas", "polars", "pyarrow") and (hasattr(value, "columns") or hasattr(value, "column_names"))


def body(frame: Any) -> tuple[str, bytes]:
    """A frame's content type and bytes."""
    try:
        import pyarrow as pa
    except ImportError:
        return _as_json(frame)
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False) if _is_pandas(frame) else pa.table(frame)
        # Categories are dictionaries to Arrow; a model takes what they stand for.
        for at, field in enumerate(table.schema):
            if pa.types.is_dictionary(field.type):
                table = table.set_column(at, field.name, table.column(at).cast(field.type.value_type))
        written = pa.BufferOutputStream()
        with pa.ipc.new_stream(written, table.schema) as stream:
            stream.write_table(table)
        return ARROW, bytes(written.getvalue())
    except pa.ArrowException as error:
        raise InvalidInput(f"the frame cannot be written as Arrow: {error}") from None


def _is_pandas(frame: object) -> bool:
    return type(frame).__module__.partition(".")[0] == "pandas"


def _as_json(frame: Any) -> tuple[str, bytes]:
    if not _is_pandas(frame):
        raise InvalidInput("a frame of this kind needs pyarrow; run `pip install pyarrow`")
    split = frame.to_json(orient="split", index=False, double_precision=15)
    return "application/json", f'{{"dataframe_split":{split}}}'.encode()
