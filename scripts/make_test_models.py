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

    # Cannot be loaded: an unknown operator, an opset of the future, a sequence output.
    save("unknown_operator", [node("Nonsense", ["x"], ["y"], domain="not.here")], [value("x", T.FLOAT, ["batch"])],
         [value("y", T.FLOAT, ["batch"])], extra_domains=["not.here"], check=False)
    save("future_opset", [node("Identity", ["x"], ["y"])], [value("x", T.FLOAT, ["batch"])],
         [value("y", T.FLOAT, ["batch"])], opset=999, check=False)
    save("sequence_output", [node("SplitToSequence", ["x"], ["y"], axis=0)], [value("x", T.FLOAT, ["batch", 2])],
         [h.make_tensor_sequence_value_info("y", T.FLOAT, None)])

    # Maps from class to probability, by number, and by name beside the label as skl2onnx writes them: in an order that
    # sorting would change.
    def maps(key):
        row = h.make_map_type_proto(key, h.make_tensor_type_proto(T.FLOAT, []))
        return h.make_sequence_type_proto(row)

    zipmap = node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    save("map_output", [zipmap], [value("x", T.FLOAT, ["batch", 2])], [h.make_value_info("y", maps(T.INT64))],
         extra_domains=["ai.onnx.ml"], check=False)
    classes = ["versicolor", "setosa", "virginica"]
    save("classifier",
         [node("Softmax", ["x"], ["p"], axis=1), node("ArgMax", ["p"], ["at"], axis=1, keepdims=0),
          node("Gather", ["names", "at"], ["output_label"]),
          node("ZipMap", ["p"], ["output_probability"], domain="ai.onnx.ml", classlabels_strings=classes)],
         [value("x", T.FLOAT, ["batch", 3])],
         [value("output_label", T.STRING, ["batch"]), h.make_value_info("output_probability", maps(T.STRING))],
         [constant("names", np.array(classes, object))], extra_domains=["ai.onnx.ml"], check=False)

    # A column of a table as skl2onnx declares it.
    save("table", [node("Mul", ["age", "rate"], ["y"]), node("Identity", ["city"], ["where"])],
         [value("age", T.FLOAT, ["batch", 1]), value("city", T.STRING, ["batch", 1])],
         [value("y", T.FLOAT, ["batch", 1]), value("where", T.STRING, ["batch", 1])],
         [constant("rate", np.array([2], np.float32))])

    rows_that_mix()
    other_axes()


def rows_that_mix():
    """Models whose rows depend on each other, most of them on special data only."""
    x, y = value("x", T.FLOAT, ["batch", 4]), value("y", T.FLOAT, ["batch", 4])
    number = lambda name, own: constant(name, np.array(own, np.float32))
    zero_axis = constant("zero_axis", np.array(0, np.int64))
    # A spectrogram's "dynamic range below the loudest", of everything.
    save("mixes_max", [node("ReduceMax", ["x"], ["most"], keepdims=1), node("Sub", ["most", "range"], ["least"]),
                       node("Max", ["x", "least"], ["y"])], [x], [y], [number("range", 8)])
    # Bytes or fractions?
    save("mixes_scale", [node("ReduceMax", ["x"], ["most"], keepdims=0), node("Greater", ["most", "one"], ["bytes"]),
                         node("Div", ["x", "full"], ["scaled"]), node("Where", ["bytes", "scaled", "x"], ["y"])],
         [x], [y], [number("one", 1), number("full", 255)])
    save("mixes_shift", [node("ReduceMin", ["x"], ["least"], keepdims=0), node("Min", ["least", "zero"], ["shift"]),
                         node("Sub", ["x", "shift"], ["y"])], [x], [y], [number("zero", 0)])
    # The lowest rows first, as many as there are.
    save("mixes_rank", [node("ReduceSum", ["x", "one_axis"], ["score"], keepdims=0), node("Shape", ["score"], ["count"]),
                        node("TopK", ["score", "count"], ["sorted", "order"], axis=0, largest=0),
                        node("Gather", ["x", "order"], ["y"], axis=0)],
         [x], [y], [constant("one_axis", np.array([1], np.int64))])
    save("mixes_unique", [node("Unique", ["x"], ["y"], axis=0, sorted=1)], [x], [y])
    # Where a row has its peak: rows with two share the total with none.
    save("mixes_peaks", [node("ReduceMax", ["x"], ["most"], axes=[1], keepdims=1), node("Equal", ["x", "most"], ["is"]),
                         node("NonZero", ["is"], ["places"]), node("Transpose", ["places"], ["y"], perm=[1, 0])],
         [x], [value("y", T.INT64, ["batch", 2])])
    save("mixes_cumsum", [node("CumSum", ["x", "zero_axis"], ["y"])], [x], [y], [zero_axis])
    save("mixes_norm", [node("LpNormalization", ["x"], ["y"], axis=0)], [x], [y])
    save("mixes_lower", [node("Trilu", ["x", "offset"], ["y"], upper=0)], [x], [y],
         [constant("offset", np.array(1, np.int64))])
    save("mixes_scatter", [node("ScatterND", ["x", "first", "new"], ["y"])], [x], [y],
         [constant("first", np.array([[0]], np.int64)), number("new", [[7, 7, 7, 7]])])
    # Each adds the first row, by its place.
    save("mixes_gather", [node("Mul", ["x", "zeros"], ["nothing"]), node("Cast", ["nothing"], ["place"], to=T.INT64),
                          node("GatherND", ["x", "place"], ["first"]), node("Add", ["x", "first"], ["y"])],
         [value("x", T.FLOAT, ["batch", 1])], [value("y", T.FLOAT, ["batch", 1])], [number("zeros", [0])])
    save("mixes_split", [node("StringSplit", ["x"], ["parts", "count"], delimiter=" "),
                         node("Identity", ["parts"], ["y"])],
         [value("x", T.STRING, ["batch"])], [value("y", T.STRING, ["batch", "most"])], opset=20)


def other_axes():
    """Models whose inputs, or output, begin with other axes."""
    edges = [value("x", T.FLOAT, ["nodes", 4]), value("src", T.INT64, ["edges"]), value("dst", T.INT64, ["edges"])]
    save("graph_edges", [node("Gather", ["x", "src"], ["from"], axis=0), node("Gather", ["x", "dst"], ["to"], axis=0),
                         node("Sub", ["to", "from"], ["y"])], edges, [value("y", T.FLOAT, ["edges", 4])])
    save("regions", [node("RoiAlign", ["x", "rois", "images"], ["y"], output_height=1, output_width=1)],
         [value("x", T.FLOAT, ["n", 1, 4, 4]), value("rois", T.FLOAT, ["r", 4]), value("images", T.INT64, ["r"])],
         [value("y", T.FLOAT, ["r", 1, 1, 1])])
    # Of unnamed axes the graph says that they are others.
    picks = [value("x", T.FLOAT, [None, 4]), value("i", T.INT64, [None])]
    save("unnamed_axes", [node("Gather", ["x", "i"], ["y"], axis=0)], picks, [value("y", T.FLOAT, [None, 4])])
    save("state_second", [node("Squeeze", ["state", "first"], ["inner"]), node("Add", ["x", "inner"], ["y"])],
         [value("x", T.FLOAT, ["batch", 4]), value("state", T.FLOAT, [1, "batch", 4])],
         [value("y", T.FLOAT, ["batch", 4])], [constant("first", np.array([0], np.int64))])
    # The graph does not show it, and synthetic input never runs: what a real request has is over a million. Over the
    # words of a row, and over the rows.
    numbers = [value("x", T.INT64, ["batch", 4])]
    for name, axis in (("real_rows", 1), ("real_mixes", 0)):
        save(name, [node("Sub", ["x", "million"], ["place"]), node("Gather", ["table", "place"], ["found"], axis=0),
                    node("Unsqueeze", ["found", "last"], ["signal"]), node("DFT", ["signal"], ["y"], axis=axis)],
             numbers, [value("y", T.FLOAT, ["batch", 4, 2])],
             [constant("million", np.array(10**6, np.int64)), constant("table", np.arange(10, dtype=np.float32) ** 2),
              constant("last", np.array([2], np.int64))])
    # The graph does not show it, and synthetic input runs at the size alone that the model's own words name.
    save("asks_for_77", [node("Reshape", ["x", "shape"], ["y"])], [value("x", T.FLOAT, ["batch", "samples"])],
         [value("y", T.FLOAT, ["batch", 77])], [constant("shape", np.array([-1, 77], np.int64))])


if __name__ == "__main__":
    main()
