"""Tensors between Python and the wire: arrays as the binary tensors of the Open
Inference Protocol v2, lists as JSON. numpy is used where a caller brings arrays."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ._frames import is_frame
from ._types import Inputs, TensorSpec
from .errors import InvalidInput

#: numpy's name of each datatype that numpy has.
DTYPES = {
    "BOOL": "?", "INT8": "<i1", "INT16": "<i2", "INT32": "<i4", "INT64": "<i8", "UINT8": "<u1", "UINT16": "<u2",
    "UINT32": "<u4", "UINT64": "<u8", "FP16": "<f2", "FP32": "<f4", "FP64": "<f8",
}  # fmt: skip


def is_array(value: object) -> bool:
    """Whether it is a numpy array or one of its scalars, without importing numpy."""
    return type(value).__module__.partition(".")[0] == "numpy"


def has_arrays(inputs: Inputs) -> bool:
    """Whether a caller brought arrays, or a frame of columns, and so gets arrays."""
    if isinstance(inputs, Mapping):
        return any(map(is_array, inputs.values()))
    return is_array(inputs) or is_frame(inputs)


def by_name(model: str, inputs: Inputs, takes: Sequence[TensorSpec]) -> Mapping[str, Any]:
    """Each input's tensor, checked against the inputs that the model has."""
    if not isinstance(inputs, Mapping):
        if len(takes) != 1:
            raise InvalidInput(f"model {model!r} takes {', '.join(spec.name for spec in takes)}; give a dict of tensors by name")
        return {takes[0].name: inputs}
    known = {spec.name for spec in takes}
    for name in inputs:
        if name not in known:
            raise InvalidInput(f"model {model!r} has no input {name!r}; inputs: {', '.join(spec.name for spec in takes)}")
    return inputs


def to_json(inputs: Inputs) -> bytes:
    """The native API's column form."""
    try:
        return json.dumps({"inputs": inputs}, allow_nan=False, separators=(",", ":"), default=_item).encode()
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidInput(f"the inputs cannot be written as JSON: {error}; NaN and infinity travel only in arrays") from None


def _item(value: Any) -> Any:
    if is_array(value):
        return value.tolist()
    if isinstance(value, bytes):
        return {"b64": base64.b64encode(value).decode()}
    raise ValueError(f"a {type(value).__name__} is no number, text or list")


def shape_of(value: Any) -> tuple[tuple[int, ...], str]:
    """A tensor's shape, and an array's dtype; a list's is read off its first elements."""
    if is_array(value):
        return value.shape, value.dtype.str
    shape = []
    while isinstance(value, (list, tuple)):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape), ""


def as_array(rows: list[Any]) -> Any:
    """Lists as an array, where numpy is installed."""
    try:
        import numpy as np
    except ImportError:
        return rows
    try:
        return np.array(rows)
    except ValueError as error:
        raise InvalidInput(f"the inputs are no tensor: {error}") from None


def pack(value: Any, spec: TensorSpec) -> tuple[list[int], bytes | memoryview]:
    """A tensor's shape and its bytes, which are the array's own where they can be."""
    import numpy as np

    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidInput(f"input {spec.name!r} is no tensor: {error}") from None
    if spec.datatype == "BYTES":
        items = [_element(item, spec.name) for item in array.reshape(-1).tolist()]
        return list(array.shape), b"".join(struct.pack("<I", len(item)) + item for item in items)
    if spec.datatype not in DTYPES:
        raise InvalidInput(f"input {spec.name!r} is {spec.datatype}, which numpy has not; give lists instead of arrays")
    dtype = np.dtype(DTYPES[spec.datatype])
    if not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise InvalidInput(f"input {spec.name!r} takes {spec.datatype}, not {array.dtype}; convert it with astype()")
    if dtype.kind in "iu" and array.size and not np.can_cast(array.dtype, dtype):
        # numpy wraps what does not fit.
        most = np.iinfo(dtype)
        for value in (int(array.min()), int(array.max())):
            if not most.min <= value <= most.max:
                raise InvalidInput(f"input {spec.name!r} has {value}, beyond the range of {spec.datatype}")
    try:
        with np.errstate(over="raise"):
            packed = np.ascontiguousarray(array, dtype=dtype)
    except FloatingPointError:
        raise InvalidInput(f"input {spec.name!r} has numbers beyond the range of {spec.datatype}") from None
    return list(array.shape), packed.reshape(-1).view(np.uint8).data


def _element(item: object, name: str) -> bytes:
    """An element of a BYTES tensor."""
    if isinstance(item, bytes):
        return item
    if item is None:
        raise InvalidInput(f"input {name!r} has an element that is None; give a text, which may be empty")
    try:
        return str(item).encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"input {name!r} has a text that cannot be sent: {error}") from None


def unpack(described: Mapping[str, Any], blob: memoryview | None) -> Any:
    """An output's array: of its bytes, or of the numbers in its description."""
    import numpy as np

    datatype, shape = described["datatype"], described["shape"]
    if blob is None:
        return np.array(described["data"], dtype=object if datatype == "BYTES" else DTYPES[datatype]).reshape(shape)
    if datatype != "BYTES":
        return np.frombuffer(blob, dtype=DTYPES[datatype]).reshape(shape)
    items = list(_elements(blob))
    texts = np.empty(len(items), dtype=object)
    texts[:] = items
    return texts.reshape(shape)


def _elements(blob: memoryview) -> Iterator[str | bytes]:
    at = 0
    while at < len(blob):
        (length,) = struct.unpack_from("<I", blob, at)
        item = bytes(blob[at + 4 : at + 4 + length])
        at += 4 + length
        try:
            yield item.decode()
        except UnicodeDecodeError:
            yield item


def converter(specs: Sequence[TensorSpec], arrays: bool) -> Callable[[str, Any], Any]:
    """Makes arrays of lists where arrays were given."""
    dtypes = {spec.name: DTYPES.get(spec.datatype) for spec in specs}

    def convert(name: str, tensor: Any) -> Any:
        if not arrays:
            return tensor
        import numpy as np

        return np.array(tensor, dtype=dtypes.get(name))

    return convert
