#!/usr/bin/env python3
"""Trains a scikit-learn pipeline on a table of mixed columns and exports it to ONNX.

    pip install scikit-learn skl2onnx pandas
    python make.py models/churn.onnx [expected.json]

The data are made up: who is older, lives in Berlin and pays little stays. With a second
path, a few rows and scikit-learn's own answers for them are written there.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NUMBERS, WORDS = ["age", "monthly_fee"], ["city", "plan"]


def table(rows: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    random = np.random.default_rng(seed)
    frame = pd.DataFrame({
        "age": random.integers(18, 90, rows).astype(np.float32),
        "city": random.choice(["Berlin", "Paris", "Rome"], rows),
        "monthly_fee": random.uniform(5, 60, rows).astype(np.float32),
        "plan": random.choice(["basic", "plus"], rows),
    })
    stays = frame["age"] / 20 + 2 * (frame["city"] == "Berlin") - frame["monthly_fee"] / 15 + random.normal(0, 1, rows)
    return frame, np.where(stays > 1.5, "stays", "leaves")


def main() -> None:
    frame, answers = table(2000, seed=0)
    columns = ColumnTransformer([("numbers", StandardScaler(), NUMBERS), ("words", OneHotEncoder(handle_unknown="ignore"), WORDS)])
    pipeline = make_pipeline(columns, LogisticRegression()).fit(frame, answers)
    # Each column is an input of its own. Numbers are declared as FP32: with FP64 the export's
    # scores are FP64, which its ZipMap does not take.
    kinds = [(name, (FloatTensorType if name in NUMBERS else StringTensorType)([None, 1])) for name in frame.columns]
    path = Path(sys.argv[1] if len(sys.argv) > 1 else "churn.onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(to_onnx(pipeline, initial_types=kinds, target_opset=17).SerializeToString())
    print(f"wrote {path}, {path.stat().st_size} bytes")
    if len(sys.argv) > 2:
        rows, _ = table(12, seed=1)
        scores = pipeline.predict_proba(rows)
        expected = [
            {"label": str(label), "probabilities": dict(zip(map(str, pipeline.classes_), map(float, row)))}
            for label, row in zip(pipeline.predict(rows), scores)
        ]
        Path(sys.argv[2]).write_text(json.dumps({"records": rows.to_dict(orient="records"), "predictions": expected}, indent=1) + "\n")


if __name__ == "__main__":
    main()
