"""The same models with a symbolic first axis, and different requests to each.

Two forms of a case: `all`, where every input and output that has the leading
size gets the axis `batch`; and `first`, where the first input has it and the
others become part of the model, as weights are. Whether their rows are
independent is for the server to find out: with these a Softmax over axis 0 has
a batch axis too.
"""

import random
import zlib

import numpy as np
import onnx
from onnx import numpy_helper

from cases import Case, is_default
from tensors import FLOATS, Tensor

AXIS = "batch"
# What a worker would otherwise have to hold for a wave of requests.
MOST_BYTES = 4 << 20


def forms(case):
    """The symbolic forms of a case: (form, Case)."""
    taken = [input for input in case.model.graph.input if input.name in case.inputs]
    if not taken or any(is_default(case.model, input.name) for input in case.model.graph.input):
        return
    leading = [case.inputs[input.name].shape[:1] for input in taken]
    if len(leading[0]) == 0 or leading[0][0] == 0:
        return
    if all(first == leading[0] for first in leading):
        yield "all", rewritten(case, taken, taken)
    if len(taken) > 1:
        yield "first", rewritten(case, taken[:1], taken)


def rewritten(case, open_inputs, taken):
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    rows = case.inputs[open_inputs[0].name].shape[0]
    names = [input.name for input in open_inputs]
    for input in taken:
        if input.name not in names:
            graph.initializer.append(initializer(input.name, case.inputs[input.name], input))
    kept = [input for input in graph.input if input.name in names or not input.name]
    del graph.input[:], graph.value_info[:]
    graph.input.extend(kept)
    for value in [*graph.input, *graph.output]:
        dims = value.type.tensor_type.shape.dim
        if len(dims) and (value.name in names or dims[0].dim_value == rows):
            dims[0].Clear()
            dims[0].dim_param = AXIS
    inputs = {name: case.inputs[name] for name in names}
    return Case(case.name, case.kind, model, inputs)


def initializer(name, tensor, declared):
    if tensor.datatype == "BYTES":
        made = onnx.TensorProto(name=name, data_type=onnx.TensorProto.STRING, dims=tensor.shape)
        made.string_data.extend(tensor.data)
        return made
    made = numpy_helper.from_array(tensor.array(), name)
    assert made.data_type == declared.type.tensor_type.elem_type, name
    return made


def requests(case, alone, count):
    """Up to `count` different requests with what the model alone answers to each."""
    seed = random.Random(zlib.crc32(case.name.encode()))
    rows = next(iter(case.inputs.values())).shape[0]
    size = sum(len(tensor.framed()) for tensor in case.inputs.values())
    made, seen = [], set()
    for number in range(4 * count):
        if len(made) == count or (made and len(made) * size > MOST_BYTES):
            break
        # The case itself, then ever tamer ones where an operator takes no other values.
        want = rows if number == 0 else seed.choice([1, 1, 2, rows, rows + 1])
        tame = number == 0 or number % 4 == 3
        random_ = np.random.default_rng(seed.randrange(2**32))
        order = np.arange(rows) if number == 0 else random_.integers(0, rows, want)
        inputs = {name: other(tensor, order, random_, tame) for name, tensor in case.inputs.items()}
        key = tuple((tensor.shape, tensor.framed()) for tensor in inputs.values())
        if key in seen:
            continue
        seen.add(key)
        try:
            outputs = alone.run(inputs)
        except Exception:
            # This operator takes no such values or sizes.
            continue
        made.append((inputs, outputs))
    return made


def other(tensor, order, random_, tame):
    array = tensor.array()[order]
    if tame:
        return Tensor.of(array)
    if tensor.datatype in FLOATS:
        spread = np.nanstd(np.where(np.isfinite(array), array, 0).astype(np.float64)) if array.size else 0
        factors = random_.uniform(0.5, 2, array.shape) * random_.choice([1, 1, -1], array.shape[:1] + (1,) * (array.ndim - 1))
        noise = random_.normal(0, spread, array.shape)
        return Tensor.of((array.astype(np.float64) * factors + noise).astype(array.dtype))
    if tensor.datatype == "BYTES":
        texts = tensor.data
        made = [b"".join(random_.choice(texts, random_.integers(1, 3)).tolist()) for _ in range(array.size)]
        return Tensor("BYTES", array.shape, made)
    if tensor.datatype == "BOOL":
        return Tensor.of(random_.integers(0, 2, array.shape).astype(np.bool_))
    # Integers may be indices: only those that the case has.
    return Tensor.of(random_.choice(tensor.array().reshape(-1), array.shape).astype(array.dtype))
