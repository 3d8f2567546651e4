#!/usr/bin/env python3
"""Trains the demo model on scikit-learn's bundled digits and exports it to ONNX.

Writes, deterministically:
  models/digits/1/model.onnx   input float32 [N,64] in 0..1 -> label int64 [N], probabilities float32 [N,10]
  models/digits/golden.json    64 test digits, and what Python onnxruntime answers for them
  models/digits/model.json     accuracy, and the training classes' distribution

Needs numpy, onnx, onnxruntime and scikit-learn (scripts/requirements-train.txt).
"""

import json
import pathlib

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "models" / "digits"
GOLDEN_ROWS = 64
OPSET, IR_VERSION = 17, 8


def export(classifier):
    """Two dense layers; softmax gives the probabilities and argmax the label."""
    names = ("hidden_weights", "hidden_bias", "output_weights", "output_bias")
    first, second = classifier.coefs_
    arrays = (first, classifier.intercepts_[0], second, classifier.intercepts_[1])
    weights = [numpy_helper.from_array(np.ascontiguousarray(a, np.float32), n) for n, a in zip(names, arrays)]
    nodes = [
        helper.make_node("Gemm", ["input", "hidden_weights", "hidden_bias"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("Gemm", ["active", "output_weights", "output_bias"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 64])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["batch"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", 10]),
        ],
        weights,
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="nobat"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def tensor(name, datatype, array):
    data = [round(float(x), 9) for x in array.ravel()] if array.dtype.kind == "f" else array.ravel().tolist()
    return {"name": name, "datatype": datatype, "shape": list(array.shape), "data": data}


def main():
    pixels, labels = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    train_x, test_x, train_y, test_y = train_test_split(
        pixels, labels, test_size=0.25, random_state=0, stratify=labels
    )
    classifier = MLPClassifier((64,), max_iter=400, random_state=0).fit(train_x, train_y)
    (FOLDER / "1").mkdir(parents=True, exist_ok=True)
    path = FOLDER / "1" / "model.onnx"
    onnx.save(export(classifier), path)

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    golden = test_x[:GOLDEN_ROWS]
    label, probabilities = session.run(["label", "probabilities"], {"input": golden})
    predicted = session.run(["label"], {"input": test_x})[0]
    accuracy = float((predicted == test_y).mean())
    document = {
        "tolerance": 1e-5,
        "inputs": [tensor("input", "FP32", golden)],
        "outputs": [tensor("label", "INT64", label), tensor("probabilities", "FP32", probabilities)],
        "expected_labels": test_y[:GOLDEN_ROWS].tolist(),
    }
    (FOLDER / "golden.json").write_text(json.dumps(document, separators=(",", ":")) + "\n")
    counts = np.bincount(train_y, minlength=10)
    facts = {
        "accuracy": round(accuracy, 4),
        "training_rows": int(len(train_y)),
        "training_class_distribution": {str(c): round(float(n / counts.sum()), 6) for c, n in enumerate(counts)},
    }
    (FOLDER / "model.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(f"accuracy {accuracy:.4f} on {len(test_y)} test digits; {path.stat().st_size} bytes in {path}")


if __name__ == "__main__":
    main()
