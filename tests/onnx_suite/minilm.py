"""all-MiniLM-L6-v2 as an ONNX model, from the weights in its package: no exporter needed."""

import json

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "I64": np.int64}


def minilm(folder):
    """Writes `minilm.onnx` beside the weights, unless it is there."""
    file = folder / "minilm.onnx"
    if file.exists():
        return
    weights = {name.removeprefix("bert."): array for name, array in safetensors(folder / "model.safetensors")}
    config = json.loads((folder / "config.json").read_text())
    graph = Graph(weights)
    width, heads = config["hidden_size"], config["num_attention_heads"]
    size = width // heads
    words = graph.op("Gather", graph.weight("embeddings.word_embeddings.weight"), "input_ids")
    types = graph.op("Gather", graph.weight("embeddings.token_type_embeddings.weight"), "token_type_ids")
    length = graph.op("Slice", graph.op("Shape", "input_ids"), graph.ints(1), graph.ints(2))
    places = graph.op("Slice", graph.weight("embeddings.position_embeddings.weight"), graph.ints(0), length, graph.ints(0))
    eps = config["layer_norm_eps"]
    state = graph.norm(graph.op("Add", graph.op("Add", words, types), places), "embeddings.LayerNorm", eps)
    mask = graph.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = graph.op("Sub", graph.number(1), graph.op("Unsqueeze", mask, graph.ints(1, 2)))
    bias = graph.op("Mul", hidden, graph.number(np.finfo(np.float32).min))
    for layer in range(config["num_hidden_layers"]):
        place = f"encoder.layer.{layer}."

        def split(part, order):
            whole = graph.linear(state, place + "attention.self." + part)
            return graph.op("Transpose", graph.op("Reshape", whole, graph.ints(0, 0, heads, size)), perm=order)

        query, key, value = split("query", [0, 2, 1, 3]), split("key", [0, 2, 3, 1]), split("value", [0, 2, 1, 3])
        scores = graph.op("Div", graph.op("MatMul", query, key), graph.number(size**0.5))
        scores = graph.op("Softmax", graph.op("Add", scores, bias), axis=-1)
        mixed = graph.op("Transpose", graph.op("MatMul", scores, value), perm=[0, 2, 1, 3])
        mixed = graph.linear(graph.op("Reshape", mixed, graph.ints(0, 0, width)), place + "attention.output.dense")
        state = graph.norm(graph.op("Add", mixed, state), place + "attention.output.LayerNorm", eps)
        wide = graph.linear(state, place + "intermediate.dense")
        erf = graph.op("Erf", graph.op("Div", wide, graph.number(2**0.5)))
        wide = graph.op("Mul", graph.op("Mul", wide, graph.op("Add", erf, graph.number(1))), graph.number(0.5))
        out = graph.linear(wide, place + "output.dense")
        state = graph.norm(graph.op("Add", out, state), place + "output.LayerNorm", eps)
    weight = graph.op("Unsqueeze", mask, graph.ints(-1))
    total = graph.op("ReduceSum", graph.op("Mul", state, weight), graph.ints(1), keepdims=0)
    count = graph.op("Max", graph.op("ReduceSum", weight, graph.ints(1), keepdims=0), graph.number(1e-9))
    mean = graph.op("Div", total, count)
    norm = graph.op("Max", graph.op("ReduceL2", mean, axes=[1], keepdims=1), graph.number(1e-12))
    graph.op("Div", mean, norm, out="sentence_embedding")
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in names]
    outputs = [helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", width])]
    made = helper.make_graph(graph.nodes, "minilm", inputs, outputs, list(graph.initializers.values()))
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)


def safetensors(file):
    raw = file.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    for name, told in json.loads(raw[8 : 8 + size]).items():
        if name != "__metadata__":
            start, end = told["data_offsets"]
            array = np.frombuffer(raw[8 + size + start : 8 + size + end], KINDS[told["dtype"]])
            yield name, array.reshape(told["shape"])


class Graph:
    def __init__(self, weights):
        self.weights, self.nodes, self.initializers = weights, [], {}

    def op(self, kind, *inputs, out=None, **attributes):
        out = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [out], name=out, **attributes))
        return out

    def constant(self, name, array):
        self.initializers.setdefault(name, numpy_helper.from_array(np.array(array, order="C"), name))
        return name

    def weight(self, name):
        return self.constant(name, self.weights[name].astype(np.float32))

    def ints(self, *values):
        return self.constant("ints_" + "_".join(str(value) for value in values), np.array(values, np.int64))

    def number(self, value):
        return self.constant(f"number_{value}", np.float32(value))

    def linear(self, x, name):
        weight = self.constant(name + ".weight", self.weights[name + ".weight"].astype(np.float32).T)
        return self.op("Add", self.op("MatMul", x, weight), self.weight(name + ".bias"))

    def norm(self, x, name, epsilon):
        return self.op(
            "LayerNormalization", x, self.weight(name + ".weight"), self.weight(name + ".bias"), axis=-1, epsilon=epsilon
        )
