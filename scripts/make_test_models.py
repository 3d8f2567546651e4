#!/usr/bin/env python3
"""Builds the small ONNX models that the worker's tests run, into
crates/nobat-worker/tests/models/. They are committed, so tests need no Python;
run this again only to change one. Needs numpy and onnx.
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto as T
from onnx import helper as h
from onnx import numpy_helper

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "crates" / "nobat-worker" / "tests" / "models"
OPSET, IR_VERSION = 17, 8
value = h.make_tensor_value_info
node = h.make_node


def constant(name, array):
    return numpy_helper.from_array(np.asarray(array), name)


def save(name, nodes, inputs, outputs, initializers=(), opset=OPSET, extra_domains=(), check=True):
    graph = h.make_graph(nodes, name, inputs, outputs, list(initializers))
    opsets = [h.make_opsetid("", opset)] + [h.make_opsetid(domain, 1) for domain in extra_domains]
    model = h.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="nobat-tests")
    if check:
        onnx.checker.check_model(model)
    onnx.save(model, FOLDER / f"{name}.onnx")


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)

    # Every datatype, unchanged.
    types = dict(
        bool=T.BOOL, uint8=T.UINT8, uint16=T.UINT16, uint32=T.UINT32, uint64=T.UINT64, int8=T.INT8, int16=T.INT16,
        int32=T.INT32, int64=T.INT64, fp16=T.FLOAT16, bf16=T.BFLOAT16, fp32=T.FLOAT, fp64=T.DOUBLE, bytes=T.STRING,
    )
    for name, kind in types.items():
        save(f"identity_{name}", [node("Identity", ["x"], ["y"])], [value("x", kind, ["batch", "n"])],
             [value("y", kind, ["batch", "n"])])

    # Every datatype, computed with: y = x W + 1 in floats, cast there and back. Text holds numbers; a bool is whether
    # x W is other than 0.
    weights = [[1, 2, 0, 0], [0, 1, 3, 0], [0, 0, 1, 1], [2, 0, 0, 1]]
    for name, kind in types.items():
        exact = T.DOUBLE if name in ("fp64", "int64", "uint64", "bytes") else T.FLOAT
        array = np.float64 if exact == T.DOUBLE else np.float32
        bias = 0 if name == "bool" else 1
        save(f"linear_{name}",
             [node("Cast", ["x"], ["exact"], to=exact), node("MatMul", ["exact", "weights"], ["product"]),
              node("Add", ["product", "bias"], ["sum"]), node("Cast", ["sum"], ["y"], to=kind)],
             [value("x", kind, ["batch", 4])], [value("y", kind, ["batch", 4])],
             [constant("weights", np.array(weights, array)), constant("bias", np.array([bias] * 4, array))])

    # Bytes under a name that TensorFlow Serving answers in base64.
    save("named_bytes", [node("Identity", ["image_bytes"], ["echo_bytes"])],
         [value("image_bytes", T.STRING, ["batch"])], [value("echo_bytes", T.STRING, ["batch"])])

    # Two inputs, two outputs, of different datatypes and shapes.
    save("two_by_two",
         [node("Add", ["a", "a"], ["double"]), node("Neg", ["b"], ["negative"])],
         [value("a", T.FLOAT, ["batch", 3]), value("b", T.INT64, ["batch"])],
         [value("double", T.FLOAT, ["batch", 3]), value("negative", T.INT64, ["batch"])])

    # `bias` is an input with a default: a request may leave it out.
    save("optional_input", [node("Add", ["x", "bias"], ["y"])],
         [value("x", T.FLOAT, ["batch", 2]), value("bias", T.FLOAT, [2])], [value("y", T.FLOAT, ["batch", 2])],
         [constant("bias", np.array([10, 20], np.float32))])

    # No batch axis in the output; a fixed batch axis; rows that mix.
    save("scalar_output", [node("ReduceSum", ["x"], ["y"], keepdims=0)], [value("x", T.FLOAT, ["batch", 2])],
         [value("y", T.FLOAT, [])])
    save("fixed_batch", [node("Neg", ["x"], ["y"])], [value("x", T.FLOAT, [1, 4])], [value("y", T.FLOAT, [1, 4])])
    save("mixing", [node("Softmax", ["x"], ["y"], axis=0)], [value("x", T.FLOAT, ["batch", 4])],
         [value("y", T.FLOAT, ["batch", 4])])
    small = constant("small", np.array(1e-4, np.float32))
    save("mixing_small", [node("Softmax", ["x"], ["s"], axis=0), node("Mul", ["s", "small"], ["y"])],
         [value("x", T.FLOAT, ["batch", 4])], [value("y", T.FLOAT, ["batch", 4])], [small])
    save("independent_small", [node("Softmax", ["x"], ["s"], axis=1), node("Mul", ["s", "small"], ["y"])],
         [value("x", T.FLOAT, ["batch", 4])], [value("y", T.FLOAT, ["batch", 4])], [small])
    save("data_dependent", [node("NonZero", ["x"], ["y"])], [value("x", T.FLOAT, ["batch", 4])],
         [value("y", T.INT64, [2, "n"])])

    # An index over 9 fails its run; a zero divides.
    save("fails_on_marked_row", [node("Gather", ["table", "index"], ["y"])], [value("index", T.INT64, ["batch"])],
         [value("y", T.FLOAT, ["batch"])], [constant("table", np.arange(10, dtype=np.float32))])
    save("integer_division", [node("Div", ["a", "b"], ["y"])],
         [value("a", T.INT32, ["batch"]), value("b", T.INT32, ["batch"])], [value("y", T.INT32, ["batch"])])
    save("reshape_fails", [node("Reshape", ["x", "shape"], ["y"])], [value("x", T.FLOAT, ["batch", 4])],
         [value("y", T.FLOAT, ["m", 7])], [constant("shape", np.array([-1, 7], np.int64))])

    # Runs `n` steps of a small loop per call: as slow as asked for.
    body = h.make_graph(
        [node("MatMul", ["state", "weights"], ["product"]), node("Tanh", ["product"], ["next"]),
         node("Identity", ["on"], ["still_on"])],
        "step",
        [value("step", T.INT64, []), value("on", T.BOOL, []), value("state", T.FLOAT, ["batch", 16])],
        [value("still_on", T.BOOL, []), value("next", T.FLOAT, ["batch", 16])])
    weights = (np.eye(16) * 0.5).astype(np.float32)
    save("slow", [node("Loop", ["n", "on", "x"], ["y"], body=body)],
         [value("n", T.INT64, []), value("x", T.FLOAT, ["batch", 16])], [value("y", T.FLOAT, ["batch", 16])],
         [constant("weights", weights), constant("on", np.array(True))])

    # Never ends; adds weights that a test brings along, from this file or another.
    save("endless", [node("Loop", ["forever", "on", "x"], ["y"], body=body)],
         [value("x", T.FLOAT, ["batch", 16])], [value("y", T.FLOAT, ["batch", 16])],
         [constant("weights", weights), constant("on", np.array(True)),
          constant("forever", np.array(2**62, np.int64))])
    save("needs_weights", [node("Add", ["x", "weights"], ["y"])], [value("x", T.FLOAT, ["batch", 2])],
         [value("y", T.FLOAT, ["batch", 2])], check=False)

    # Asks for as much memory as its input says.
    save("big_memory", [node("Expand", ["one", "shape"], ["big"]), node("ReduceSum", ["big"], ["y"], keepdims=0)],
         [value("shape", T.INT64, ["rank"])], [value("y", T.FLOAT, [])], [constant("one", np.ones(1, np.float32))])

    # Cannot be loaded: an unknown operator, an opset of the future, a map output.
    save("unknown_operator", [node("Nonsense", ["x"], ["y"], domain="not.here")], [value("x", T.FLOAT, ["batch"])],
         [value("y", T.FLOAT, ["batch"])], extra_domains=["not.here"], check=False)
    save("future_opset", [node("Identity", ["x"], ["y"])], [value("x", T.FLOAT, ["batch"])],
         [value("y", T.FLOAT, ["batch"])], opset=999, check=False)
    zipmap = node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    row = h.make_map_type_proto(T.INT64, h.make_tensor_type_proto(T.FLOAT, []))
    save("map_output", [zipmap], [value("x", T.FLOAT, ["batch", 2])],
         [h.make_value_info("y", h.make_sequence_type_proto(row))], extra_domains=["ai.onnx.ml"], check=False)


if __name__ == "__main__":
    main()
