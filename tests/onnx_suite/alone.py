"""A model run alone in Python's onnxruntime: what every answer is compared with."""

import ctypes

import numpy as np
import onnxruntime as ort

from tensors import DATATYPES, NUMPY, Tensor

ort.set_default_logger_severity(4)


class Unlike(Exception):
    """An input or output that is no tensor of the protocol."""


def options():
    """As a worker opens its sessions."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    return options


class Alone:
    def __init__(self, model):
        self.session = ort.InferenceSession(model, options(), providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self.session.get_outputs()]
        self.output_types = [output.type for output in self.session.get_outputs()]
        self.inputs = {input.name: input for input in self.session.get_inputs()}

    def run(self, tensors):
        """Tensors by name in, tensors by name out. onnxruntime's own error, or Unlike."""
        if any(tensor.datatype == "BYTES" for tensor in tensors.values()) or "tensor(string)" in self.output_types:
            found = self.session.run(None, {name: tensor.array() for name, tensor in tensors.items()})
            return {name: tensor_of(value) for name, value in zip(self.outputs, found)}
        values = {name: ort_value(tensor) for name, tensor in tensors.items()}
        found = self.session.run_with_ort_values(None, values)
        return {name: read(value) for name, value in zip(self.outputs, found)}


def tensor_of(value):
    if not isinstance(value, np.ndarray):
        raise Unlike(type(value).__name__)
    return Tensor.of(value)


def ort_value(tensor):
    kind = next(kind for kind, name in DATATYPES.items() if name == tensor.datatype)
    if tensor.datatype == "BF16":
        raw = np.frombuffer(tensor.data, np.uint16).reshape(tensor.shape)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(raw.copy(), kind)
    return ort.OrtValue.ortvalue_from_numpy(tensor.array().copy())


def read(value):
    if not value.is_tensor():
        raise Unlike(value.data_type())
    datatype = DATATYPES.get(value.element_type())
    if datatype is None:
        raise Unlike(value.data_type())
    shape = tuple(value.shape())
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(NUMPY[datatype]).itemsize
    return Tensor(datatype, shape, ctypes.string_at(value.data_ptr(), size) if size else b"")
