"""``@nobat.task`` against a real server."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import nobat


def test_a_task_submits_and_waits_as_it_is_told(client: nobat.Client, digit: list[float]) -> None:
    called: list[int] = []

    @nobat.task(model="digits", priority=10, retries=2, retry_delay=1, client=client)
    def read_digit(sixteenths: list[int]) -> Any:
        called.append(len(sixteenths))
        return np.array([sixteenths], dtype=np.float32) / 16

    sixteenths = [round(16 * pixel) for pixel in digit]
    job = read_digit(sixteenths)
    assert called == [64], "the function runs here and now"
    assert job.info.priority == 10 and job.result(timeout=30)["label"].tolist() == [7]
    assert read_digit(sixteenths, blocking=True)["label"].tolist() == [7]
    assert [answer["label"].tolist() for answer in read_digit.map([sixteenths] * 3)] == [[7]] * 3
    later = read_digit.options(delay="5m", priority=1)(sixteenths)
    assert later.status == "scheduled" and later.info.priority == 1
    later.cancel()
    assert read_digit.settings == {"priority": 10, "max_retries": 2, "retry_delay": 1}


def test_a_task_without_a_model_is_told_it_at_the_call(client: nobat.Client, digit: list[float]) -> None:
    @nobat.task(priority=10, client=client)
    def predict(name: str, x: Any) -> Any:
        return x

    assert predict("digits", [digit], blocking=True)["label"] in ([7], [[7]])
    with pytest.raises(nobat.NotFound):
        predict("nothing", [digit])
    with pytest.raises(nobat.InvalidInput, match="task 'predict' has no model"):
        predict(x=[digit])
    with pytest.raises(TypeError, match="prioritty"):
        nobat.task(model="digits", prioritty=3)(lambda x: x)("x")  # type: ignore[call-arg]
