"""Tensors as they travel: a datatype of the Open Inference Protocol, a shape, and bytes.

Bytes compare exactly, and every datatype has them, bfloat16 too. Elements of a
BYTES tensor are kept as a list.
"""

from dataclasses import dataclass

import ml_dtypes
import numpy as np
from onnx import TensorProto

DATATYPES = {
    TensorProto.BOOL: "BOOL", TensorProto.UINT8: "UINT8", TensorProto.UINT16: "UINT16", TensorProto.UINT32: "UINT32",
    TensorProto.UINT64: "UINT64", TensorProto.INT8: "INT8", TensorProto.INT16: "INT16", TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64", TensorProto.FLOAT16: "FP16", TensorProto.BFLOAT16: "BF16", TensorProto.FLOAT: "FP32",
    TensorProto.DOUBLE: "FP64", TensorProto.STRING: "BYTES",
}
NUMPY = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
    "BF16": ml_dtypes.bfloat16, "FP32": np.float32, "FP64": np.float64,
}
FLOATS = ("FP16", "BF16", "FP32", "FP64")
OF_NUMPY = {np.dtype(kind): name for name, kind in NUMPY.items()}
# What a float's sums may differ by when a kernel adds them in another order, relative to the largest.
ROUNDING = {"FP16": 4e-3, "BF16": 3e-2, "FP32": 2e-5, "FP64": 1e-12}


@dataclass(frozen=True)
class Tensor:
    datatype: str
    shape: tuple
    data: object  # bytes, or a list of bytes for BYTES

    @staticmethod
    def of(array):
        array = np.asarray(array)
        if array.dtype.kind in "OUS":
            texts = [text if isinstance(text, bytes) else str(text).encode() for text in array.reshape(-1).tolist()]
            return Tensor("BYTES", array.shape, texts)
        return Tensor(OF_NUMPY[array.dtype], array.shape, np.ascontiguousarray(array).tobytes())

    def array(self):
        if self.datatype == "BYTES":
            array = np.empty(len(self.data), object)
            array[:] = [text.decode() for text in self.data]
            return array.reshape(self.shape)
        return np.frombuffer(self.data, NUMPY[self.datatype]).reshape(self.shape)

    def framed(self):
        """Its bytes as v2's binary form has them."""
        if self.datatype == "BYTES":
            return b"".join(len(text).to_bytes(4, "little") + text for text in self.data)
        return self.data

    @staticmethod
    def unframed(datatype, shape, raw):
        if datatype != "BYTES":
            return Tensor(datatype, tuple(shape), bytes(raw))
        texts, at = [], 0
        while at < len(raw):
            end = at + 4 + int.from_bytes(raw[at : at + 4], "little")
            texts.append(bytes(raw[at + 4 : end]))
            at = end
        return Tensor(datatype, tuple(shape), texts)

    def is_finite(self):
        return self.datatype not in FLOATS or bool(np.isfinite(self.array().astype(np.float64)).all())


def difference(expected, found, close=0):
    """What is wrong with `found`, in words; None where nothing is.

    `close` forgives what another order of additions changes in the last digits
    of floats, as a batch of another size does, so many times, and a step of one
    where a float was rounded to an integer.
    """
    if (expected.datatype, tuple(expected.shape)) != (found.datatype, tuple(found.shape)):
        return f"{found.datatype}{list(found.shape)} instead of {expected.datatype}{list(expected.shape)}"
    if expected.data == found.data:
        return None
    if expected.datatype == "BYTES":
        return f"{found.data[:3]} instead of {expected.data[:3]}"
    one, two = (tensor.array().astype(np.float64).reshape(-1) for tensor in (expected, found))
    same = (one == two) | (np.isnan(one) & np.isnan(two))
    if same.all():
        return None
    if close:
        finite = np.isfinite(one)
        largest = np.abs(one[finite]).max(initial=0)
        allowed = close * ROUNDING.get(expected.datatype, 0) * largest
        if expected.datatype in ("INT8", "UINT8", "INT32") and largest > 1:
            allowed = 1
        with np.errstate(invalid="ignore"):
            if (same | (np.abs(one - two) <= allowed)).all():
                return None
    at = int(np.flatnonzero(~same)[0])
    return f"element {at} is {two[at]!r} instead of {one[at]!r}"
