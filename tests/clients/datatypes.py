"""Every datatype of the protocol with values at its edges."""

import ml_dtypes
import numpy as np


def _integers(dtype):
    limits = np.iinfo(dtype)
    return np.array([[limits.min, 0, limits.max], [1, 2, 3]], dtype)


#: datatype -> values of shape [2, 3]
VALUES = {
    "BOOL": np.array([[True, False, True], [False, False, True]]),
    "UINT8": _integers(np.uint8),
    "UINT16": _integers(np.uint16),
    "UINT32": _integers(np.uint32),
    "UINT64": _integers(np.uint64),
    "INT8": _integers(np.int8),
    "INT16": _integers(np.int16),
    "INT32": _integers(np.int32),
    "INT64": _integers(np.int64),
    "FP16": np.array([[0.5, -65504, 6e-8], [1, 2, 3]], np.float16),
    "BF16": np.array([[0.5, -3e38, 1e-38], [1, 2, 3]], ml_dtypes.bfloat16),
    "FP32": np.array([[0.1, -3.4e38, 1e-45], [1, 2, 3]], np.float32),
    "FP64": np.array([[0.1, -1.7e308, 5e-324], [1, 2, 3]], np.float64),
    "BYTES": np.array([[b"", b"hi", "naïve".encode()], [b"\n", b'"', b"x" * 1000]], np.object_),
}

#: What JSON can carry: no half floats, and only text among BYTES.
IN_JSON = {name: values for name, values in VALUES.items() if name not in ("FP16", "BF16")}
IN_JSON["BYTES"] = np.array([["", "hi", "naïve \"text\""], ["a", "\\", "\n"]], np.object_)
