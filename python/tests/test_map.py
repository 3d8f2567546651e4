"""How inputs are packed into calls, against a server that is made up: any shapes, any bad
inputs, any order of answers. No I/O."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

import nobat
from nobat import _flows as flows
from nobat import _map
from nobat._map import AHEAD_BYTES, MOST_BYTES, MOST_ROWS, Chunk, Mapper, Outcome, Settings
from nobat._types import Options

TAKES = (nobat.TensorSpec("x", "FP32", (-1, -1)),)


def mapper(run_rows: int = 8, concurrency: int = 4, ordered: bool = True) -> Mapper:
    return Mapper(flows.Known(), "m", Options(), Settings(concurrency, ordered, "yield", None, 60.0), TAKES, run_rows)


def answer(chunk: Chunk, calls: Counter[str]) -> Outcome:
    """The sum of each row; refused where a row holds a negative number."""
    given = chunk.inputs(TAKES)
    assert isinstance(given, dict)
    rows: Any = np.asarray(given["x"])
    calls["calls"] += 1
    calls["rows"] = max(calls["rows"], len(rows))
    if rows.min() < 0:
        return nobat.InvalidRequest("negative", code="invalid_tensor", status=400)
    return nobat.Prediction({"sum": rows.sum(axis=1)}, "m", "1")


def play(packed: Mapper, inputs: list[Any], chance: random.Random) -> tuple[list[Outcome], Counter[str]]:
    """Drives it as the clients do, with answers in any order."""
    seen: list[Outcome] = []
    calls: Counter[str] = Counter()
    running: list[Chunk] = []
    at = held = 0
    while True:
        last = at == len(inputs)
        while len(running) < 4 and (chunk := packed.chunk(last)) is not None:
            running.append(chunk)
        if packed.results:
            seen.append(packed.result())
        elif not last and packed.room and chance.random() < 0.9:
            packed.take(inputs[at])
            at += 1
            held = max(held, at - len(seen))
        elif running:
            chunk = running.pop(chance.randrange(len(running)))
            packed.done(chunk, answer(chunk, calls))
        elif last:
            calls["held"] = held
            return seen, calls


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("ordered", [True, False])
def test_each_input_is_answered_once_and_only_bad_ones_fail(seed: int, ordered: bool) -> None:
    chance = random.Random(seed)
    inputs: list[Any] = []
    bad = set()
    for index in range(chance.randrange(1, 400)):
        width, rows = chance.randrange(1, 4), chance.randrange(1, 4)
        one = np.full((rows, width), float(index), dtype=chance.choice(["<f4", "<f8"]))
        if chance.random() < 0.03:
            bad.add(index)
            one[chance.randrange(rows), chance.randrange(width)] = -1
        kind = chance.randrange(4)
        inputs.append([one, one.tolist(), one[0] if index not in bad else one.min(axis=0), {"x": one}][kind])
    seen, _ = play(mapper(ordered=ordered), inputs, chance)
    places = [outcome.index for outcome in seen]
    assert (places if ordered else sorted(places, key=lambda place: place or 0)) == list(range(len(inputs)))
    assert {outcome.index for outcome in seen if isinstance(outcome, nobat.NobatError)} == bad
    for outcome in seen:
        if isinstance(outcome, nobat.Prediction):
            assert outcome.index is not None
            given = inputs[outcome.index]
            given = given["x"] if isinstance(given, dict) else given
            assert np.asarray(outcome["sum"]).tolist() == np.asarray(given).sum(axis=-1).tolist()
            assert (type(outcome["sum"]) in (list, float)) is isinstance(given, list)


def test_calls_grow_and_what_is_held_is_bounded() -> None:
    seen, calls = play(mapper(), [np.ones(2, dtype=np.float32)] * 50_000, random.Random(0))
    assert len(seen) == 50_000
    assert calls["rows"] == MOST_ROWS and calls["calls"] < 200
    assert calls["held"] <= 2 * 4 * MOST_ROWS


def test_a_bad_input_costs_a_handful_of_calls() -> None:
    inputs = [np.ones(2, dtype=np.float32)] * 64
    inputs[37] = -inputs[37]
    _, calls = play(mapper(run_rows=64), inputs, random.Random(0))
    assert calls["calls"] == 1 + 2 * 6


def test_large_inputs_are_bounded_by_their_bytes() -> None:
    big = np.ones((1, MOST_BYTES // 4 // 2), dtype=np.float32)
    packed = mapper(run_rows=64, concurrency=100)
    taken = 0
    while packed.room:
        packed.take(big)
        taken += 1
    assert taken == AHEAD_BYTES // big.nbytes
    chunk = packed.chunk(last=False)
    assert chunk is not None and len(chunk.entries) == 2
    alone = mapper(run_rows=64)
    alone.take(np.ones((1, MOST_BYTES), dtype=np.float32))
    assert alone.chunk(last=False) is not None, "one input may be larger than a call"


def test_where_rows_do_not_run_together_each_input_is_a_call() -> None:
    seen, calls = play(mapper(run_rows=0), [np.ones((2, 2), dtype=np.float32)] * 50, random.Random(0))
    assert len(seen) == 50 and calls["calls"] == 50 and calls["rows"] == 2


def test_slow_calls_do_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_map, "BRISK", 0.0)
    _, calls = play(mapper(), [np.ones(2, dtype=np.float32)] * 1_000, random.Random(0))
    assert calls["rows"] == 8
