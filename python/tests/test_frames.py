"""Data frames as inputs, against a real server."""

from __future__ import annotations

import sys

import pandas as pd
import pyarrow as pa
import pytest

import nobat
from nobat import _frames


def test_a_frame_is_a_table_of_rows(client: nobat.Client, digit: list[float]) -> None:
    frame = pd.DataFrame([digit, digit], columns=[f"pixel {at}" for at in range(64)])
    answer = client.predict("digits", frame)
    assert answer["label"].reshape(-1).tolist() == [7, 7]
    assert answer["probabilities"].shape[0] == 2
    job = client.submit("digits", frame)
    assert job.result(timeout=30)["label"].reshape(-1).tolist() == [7, 7]
    table = pa.Table.from_pandas(frame)
    assert client.predict("digits", table)["label"].reshape(-1).tolist() == [7, 7]


def test_a_frame_without_pyarrow_is_the_same(
    client: nobat.Client, digit: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    frame = pd.DataFrame([digit])
    assert _frames.body(frame)[0] == "application/json"
    assert client.predict("digits", frame)["label"].reshape(-1).tolist() == [7]


def test_what_does_not_fit_is_told_by_the_server(client: nobat.Client, digit: list[float]) -> None:
    with pytest.raises(nobat.InvalidRequest) as refused:
        client.predict("digits", pd.DataFrame([digit[:3]], columns=["a", "b", "c"]))
    assert "the table has 3 columns (`a`, `b`, `c`)" in str(refused.value)
    words = pd.DataFrame([["x"] * 64], columns=[str(at) for at in range(64)])
    with pytest.raises(nobat.InvalidRequest) as refused:
        client.predict("digits", words)
    assert "row 0, column `0` is the text `x`" in str(refused.value)


def test_categories_travel_as_what_they_stand_for() -> None:
    frame = pd.DataFrame({"city": pd.Categorical(["Rome", "Bonn", "Rome"]), "age": [1, 2, 3]}, index=[7, 8, 9])
    kind, body = _frames.body(frame)
    assert kind == _frames.ARROW
    table = pa.ipc.open_stream(body).read_all()
    assert table.column_names == ["city", "age"] and table.column("city").to_pylist() == ["Rome", "Bonn", "Rome"]
    assert not pa.types.is_dictionary(table.schema.field("city").type)
