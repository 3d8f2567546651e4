#!/usr/bin/env python3
"""Random graphs: what the analysis of rows calls proven must be so on ONNX Runtime.

Each graph is run with four requests of one to three rows, alone and joined in three
ways. A joined answer that differs from the answers alone, of a proven graph, is a wrong
rule: exit 1. (A joined run that fails is no wrong answer; a trial at load sees it.)
Usage: fuzz_rows.py [GRAPHS] [SEED]. Needs numpy, onnx, onnxruntime and the example
`rows` of nobat-worker.
"""

import collections
import pathlib
import random
import subprocess
import sys
import tempfile

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROOT = pathlib.Path(__file__).resolve().parent.parent
ROWS = ROOT / "target" / "debug" / "examples" / "rows"
OTHER = "?"


class Graph:
    """Nodes that grow from `x` and `z`; sizes that are not known are `OTHER`."""

    def __init__(self, pick, numbers):
        self.pick, self.numbers = pick, numbers
        self.nodes, self.constants, self.count = [], [], 0
        rank = pick.choice([2, 3, 3, 4])
        axes = ["n"] + [pick.choice([1, 2, 3, 4]) for _ in range(rank - 1)]
        self.inputs = ["x", "z"] if pick.random() < 0.4 else ["x"]
        self.axes = {name: axes for name in self.inputs}
        self.inner = axes[1:]

    def constant(self, value):
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def longs(self, *values):
        return self.constant(np.array(values, np.int64))

    def op(self, kind, *inputs, outputs=1, **attributes):
        self.count += 1
        names = [f"t{self.count}_{at}" for at in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def size(self, of, at):
        """One size of a tensor, as exporters read it."""
        size = self.op("Gather", self.op("Shape", of), self.constant(np.array(at, np.int64)), axis=0)
        return self.op("Unsqueeze", size, self.longs(0))

    def grow(self):
        """One operator on one of the newest tensors; none where it does not fit."""
        name = self.pick.choice(list(self.axes)[-3:])
        try:
            made = self.pick.choice(STEPS)(self, name, list(self.axes[name]))
        except (ValueError, IndexError, TypeError):
            return
        self.axes.update(made)

    def model(self):
        out = self.op("Identity", list(self.axes)[-1])
        if self.pick.random() < 0.6:
            out = self.op("Reshape", list(self.axes)[-1], self.op("Concat", self.size("x", 0), self.longs(-1), axis=0))
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"] + self.inner) for name in self.inputs]
        outputs = [helper.make_tensor_value_info(out, TensorProto.FLOAT, None)]
        graph = helper.make_graph(self.nodes, "random", inputs, outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def replaced(axes, at, size=OTHER):
    return axes[:at] + [size] + axes[at + 1:]


def unary(g, name, axes):
    return {g.op(g.pick.choice(["Relu", "Neg", "Tanh"]), name): axes}


def binary(g, name, axes):
    other = g.pick.choice(list(g.axes))
    rank = max(len(axes), len(g.axes[other]))
    pad = lambda own: [1] * (rank - len(own)) + own
    joined = [one if two in (1, one) else two if one == 1 else None for one, two in zip(pad(axes), pad(g.axes[other]))]
    if None in joined:
        raise ValueError
    return {g.op(g.pick.choice(["Add", "Sub", "Mul", "Max"]), name, other): joined}


def reduced(g, name, axes):
    over = sorted(g.pick.sample(range(len(axes)), g.pick.randint(1, len(axes))))
    keep = g.pick.randint(0, 1)
    left = [1 if at in over else size for at, size in enumerate(axes) if keep or at not in over]
    return {g.op(g.pick.choice(["ReduceMax", "ReduceMean"]), name, axes=over, keepdims=keep): left}


def along_axis(g, name, axes):
    at = g.pick.randrange(-len(axes), len(axes))
    kind = g.pick.choice(["Softmax", "Hardmax", "LpNormalization", "CumSum"])
    if kind == "CumSum":
        return {g.op(kind, name, g.constant(np.array(at, np.int64))): axes}
    return {g.op(kind, name, axis=at): axes}


def transposed(g, name, axes):
    order = list(range(len(axes)))
    g.pick.shuffle(order)
    return {g.op("Transpose", name, perm=order): [axes[at] for at in order]}


def merged(g, name, axes):
    at = g.pick.randrange(len(axes) - 1)
    parts = [g.longs(-1) if own == at else g.size(name, own) for own in range(len(axes)) if own != at + 1]
    return {g.op("Reshape", name, g.op("Concat", *parts, axis=0)): axes[:at] + [OTHER] + axes[at + 2:]}


def divided(g, name, axes):
    at, by = g.pick.randrange(len(axes)), g.longs(g.pick.choice([1, 2, 3]))
    parts = [[g.size(name, own)] for own in range(len(axes))]
    parts[at] = [by, g.op("Div", parts[at][0], by)]
    if g.pick.random() < 0.5:
        parts[at].reverse()
    return {g.op("Reshape", name, g.op("Concat", *sum(parts, []), axis=0)): [OTHER] * (len(axes) + 1)}


def reshaped(g, name, _):
    k = g.pick.choice([1, 2, 3, 4])
    return {g.op("Reshape", name, g.longs(*g.pick.choice([[-1, k], [k, -1], [0, -1]]))): [OTHER, OTHER]}


def cut(g, name, axes):
    at = g.pick.randrange(len(axes))
    ends = g.longs(g.pick.choice([1, 2, 10**9, 2**62, -1]))
    starts, steps = g.longs(g.pick.choice([0, 0, 1, -1])), g.longs(g.pick.choice([1, 1, -1]))
    return {g.op("Slice", name, starts, ends, g.longs(at), steps): replaced(axes, at)}


def picked(g, name, axes):
    at, places = g.pick.randrange(len(axes)), g.pick.choice([0, [0], [0, 0], [-1]])
    places = np.array(places, np.int64)
    return {g.op("Gather", name, g.constant(places), axis=at): axes[:at] + list(places.shape) + axes[at + 1:]}


def set_beside(g, name, axes):
    other, at = g.pick.choice([name] + list(g.axes)), g.pick.randrange(len(axes))
    if len(g.axes[other]) != len(axes):
        raise ValueError
    return {g.op("Concat", name, other, axis=at): replaced(axes, at)}


def ranked(g, name, axes):
    at = g.pick.randrange(len(axes))
    return {g.op("TopK", name, g.longs(1), outputs=2, axis=at)[0]: replaced(axes, at, 1)}


def split(g, name, axes):
    at = g.pick.randrange(len(axes))
    return {part: replaced(axes, at) for part in g.op("Split", name, outputs=2, axis=at)}


def squeezed(g, name, axes):
    if g.pick.random() < 0.2:
        return {g.op("Squeeze", name): [OTHER] * max(1, len(axes) - axes.count(1))}
    at = g.pick.choice([at for at, size in enumerate(axes) if size == 1])
    return {g.op("Squeeze", name, g.longs(at)): axes[:at] + axes[at + 1:]}


def unsqueezed(g, name, axes):
    at = g.pick.randrange(len(axes) + 1)
    return {g.op("Unsqueeze", name, g.longs(at)): axes[:at] + [1] + axes[at:]}


def product(g, name, axes):
    order = list(range(len(axes)))
    order[-1], order[-2] = order[-2], order[-1]
    other, turned = g.pick.choice([name] + list(g.axes)[-2:]), g.op("Transpose", name, perm=order)
    pair = (other, turned) if g.pick.random() < 0.5 else (turned, other)
    return {g.op("MatMul", *pair): [OTHER] * max(len(axes), len(g.axes[other]))}


def weighted(g, name, axes):
    weights = g.numbers.standard_normal((axes[-1], g.pick.choice([1, 2, 3]))).astype(np.float32)
    return {g.op("MatMul", name, g.constant(weights)): replaced(axes, len(axes) - 1)}


def tiled(g, name, axes):
    times = [g.pick.choice([1, 1, 2]) for _ in axes]
    return {g.op("Tile", name, g.longs(*times)): [size if one == 1 else OTHER for size, one in zip(axes, times)]}


def expanded(g, name, axes):
    one = g.constant(g.numbers.standard_normal([1] * len(axes)).astype(np.float32))
    token = g.op("Expand", one, g.op("Shape", name))
    return {token: axes, g.op("Concat", token, name, axis=g.pick.randrange(len(axes))): [OTHER] * len(axes)}


def padded(g, name, axes):
    pads = [0] * (2 * len(axes))
    at = g.pick.randrange(len(pads))
    pads[at] = 1
    return {g.op("Pad", name, g.longs(*pads)): replaced(axes, at % len(axes))}


def chosen(g, name, axes):
    other = g.pick.choice([own for own in g.axes if g.axes[own] == axes])
    return {g.op("Where", g.op("Greater", name, g.constant(np.float32(0))), name, other): axes}


def scattered(g, name, axes):
    at = g.pick.randrange(len(axes))
    places = g.op("ArgMax", name, axis=at, keepdims=1)
    found = g.op("GatherElements", name, places, axis=at)
    return {g.op("ScatterElements", name, places, found, axis=at): axes}


def by_place(g, name, axes):
    shared = g.pick.randrange(1, len(axes))
    zeros = g.op("Cast", g.op("Mul", name, g.constant(np.float32(0))), to=TensorProto.INT64)
    place = g.op("ReduceMax", zeros, axes=list(range(shared, len(axes))), keepdims=0)
    picked = g.op("GatherND", name, g.op("Unsqueeze", place, g.longs(-1)), batch_dims=shared)
    return {picked: axes[:shared] + axes[shared + 1:]}


def triangle(g, name, axes):
    return {g.op("Trilu", name, g.constant(np.array(g.pick.choice([-1, 0, 1]), np.int64)), upper=g.pick.randint(0, 1)): axes}


def counted(g, name, axes):
    count = g.op("Cast", g.size(g.pick.choice(list(g.axes)), 0), to=TensorProto.FLOAT)
    return {g.op("Div", name, count): axes}


STEPS = [
    unary, binary, reduced, along_axis, transposed, merged, divided, reshaped, cut, picked, set_beside, ranked, split,
    squeezed, unsqueezed, product, weighted, tiled, expanded, padded, chosen, scattered, by_place, triangle, counted,
]


def outcome(session, request):
    try:
        return session.run(None, request)[0]
    except Exception:  # Random graphs fail in every way there is.
        return None


def truth(file, graph, numbers):
    """What running rows alone and joined shows of a model."""
    try:
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    except Exception:
        return "does not load"
    counts = [1, 2, 1, 3]
    made = lambda rows, scale: (numbers.standard_normal([rows] + graph.inner) * scale).astype(np.float32)
    requests = [{name: made(rows, scale) for name in graph.inputs} for rows, scale in zip(counts, [1, 5, 0.2, 1])]
    alone = [outcome(session, request) for request in requests]
    ran = [at for at, answer in enumerate(alone) if answer is not None]
    if len(ran) < 2:
        return "does not run"
    for order in (ran, ran[::-1], ran[:2]):
        joined = outcome(session, {name: np.concatenate([requests[at][name] for at in order]) for name in graph.inputs})
        if joined is None:
            return "fails joined"
        own = [alone[at] for at in order]
        if any(part.ndim < 1 or part.shape[0] != counts[at] or part.shape[1:] != own[0].shape[1:] for at, part in zip(order, own)):
            return "differs"
        whole = np.concatenate(own)
        if whole.shape != joined.shape or not np.allclose(whole, joined, rtol=1e-3, atol=1e-4, equal_nan=True):
            return "differs"
    return "the same"


def main():
    count, seed = (int(own) for own in (sys.argv[1:] + ["1000", "1"][len(sys.argv) - 1:])[:2])
    pick, numbers = random.Random(seed), np.random.default_rng(seed)
    onnxruntime.set_default_logger_severity(4)
    folder = pathlib.Path(tempfile.mkdtemp(prefix="nobat-rows-"))
    graphs = {}
    for number in range(count):
        graph = Graph(pick, numbers)
        for _ in range(pick.randint(2, 8)):
            graph.grow()
        graphs[str(folder / f"{number}.onnx")] = graph
        onnx.save(graph.model(), folder / f"{number}.onnx")
    verdicts = {}
    files = list(graphs)
    for at in range(0, count, 500):
        lines = subprocess.run([ROWS, *files[at:at + 500]], capture_output=True, text=True, check=True).stdout
        verdicts.update({line.split("\t")[1]: line.split("\t")[0] for line in lines.splitlines()})
    found = {file: (verdicts[file], truth(file, graph, numbers)) for file, graph in graphs.items()}
    for (verdict, shown), times in sorted(collections.Counter(found.values()).items()):
        print(f"{times:6} {verdict:14} {shown}")
    wrong = [file for file, own in found.items() if own == ("proven", "differs")]
    print(f"{len(wrong)} proven graphs answer otherwise when joined", *wrong)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
