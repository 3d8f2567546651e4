"""The client against a real server."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest

import nobat
from conftest import Server
from nobat._map import MOST_ROWS


def test_arrays_go_in_and_come_out_as_arrays(client: nobat.Client, digit: list[float]) -> None:
    answer = client.predict("digits", np.array([digit, digit]))
    assert answer.model == "digits"
    labels = answer["label"]
    assert isinstance(labels, np.ndarray) and labels.reshape(-1).tolist() == [7, 7]
    assert answer["probabilities"].dtype == np.float32 and answer["probabilities"].shape[0] == 2
    assert answer.timings.infer is not None and answer.timings.infer > 0
    assert answer.timings.batch_size is not None


def test_lists_go_in_and_come_out_as_lists_and_mean_the_same(client: nobat.Client, digit: list[float]) -> None:
    lists = client.predict("digits", [digit], priority=10, deadline="30s")
    arrays = client.predict("digits", np.array([digit]), priority=10, deadline="30s")
    assert isinstance(lists["label"], list)
    assert lists["label"] == arrays["label"].tolist()
    np.testing.assert_allclose(lists["probabilities"], arrays["probabilities"], rtol=1e-5)
    assert lists.job_id and lists.timings.attempts == 1


def test_chosen_outputs_are_all_there_is(client: nobat.Client, digit: list[float]) -> None:
    for inputs in ([digit], np.array([digit])):
        answer = client.predict("digits", inputs, outputs=["label"])
        assert list(answer.outputs) == ["label"]
        assert np.asarray(answer.output).reshape(-1).tolist() == [7]


def test_a_job_is_submitted_followed_and_read(client: nobat.Client, digit: list[float]) -> None:
    job = client.submit("digits", np.array([digit]), priority=10, result_ttl="60s")
    answer = job.result(timeout=30)
    assert answer["label"].reshape(-1).tolist() == [7] and answer.job_id == job.id
    assert job.status == "succeeded" and job.info.done and job.info.priority == 10
    assert job.timings is not None and job.timings.infer is not None
    again = client.job(job.id)
    assert np.asarray(again.result()["label"]).reshape(-1).tolist() == [7]
    assert job.id in {info.id for info in client.jobs(model="digits", state="succeeded")}
    assert client.submit("digits", [digit]).wait(timeout=30).state == "succeeded"


def test_a_job_that_waits_is_cancelled_and_a_wait_ends(client: nobat.Client, digit: list[float]) -> None:
    job = client.submit("digits", [digit], delay="5m")
    with pytest.raises(nobat.Timeout) as timed_out:
        job.result(timeout=0.2)
    assert timed_out.value.job_id == job.id
    assert job.status == "scheduled"
    assert job.wait(timeout=0.1).state == "scheduled"
    assert job.cancel().state == "cancelled"
    assert job.wait().done
    with pytest.raises(nobat.Conflict) as cancelled:
        job.result()
    assert (cancelled.value.status, cancelled.value.code, cancelled.value.job_id) == (409, "job_cancelled", job.id)


def test_jobs_are_found_by_the_tags_that_they_were_given(client: nobat.Client, digit: list[float]) -> None:
    one = client.submit("digits", [digit], tag="team=a & b", delay="5m")
    more = client.submit("digits", np.array([digit]), tags=["team=a & b", "nightly"], tag="first", delay="5m")
    assert {info.id for info in client.jobs(tag="team=a & b")} >= {one.id, more.id}
    assert [info.id for info in client.jobs(tag="nightly", model="digits")][:1] == [more.id]
    assert more.refresh().detail["tags"] == ["first", "team=a & b", "nightly"]
    answer = client.predict("digits", np.array([digit]), tag="waited for")
    assert answer["label"].reshape(-1).tolist() == [7] and answer.job_id in {info.id for info in client.jobs(tag="waited for")}
    with pytest.raises(nobat.InvalidInput, match="tags is the text 'nightly'"):
        client.submit("digits", [digit], tags="nightly")
    with pytest.raises(nobat.InvalidRequest, match="too long"):
        client.submit("digits", [digit], tag="x" * 65)
    for job in (one, more):
        job.cancel()


def test_a_key_makes_one_job(client: nobat.Client, digit: list[float]) -> None:
    first = client.submit("digits", [digit], idempotency_key="once", delay="5m")
    second = client.submit("digits", [digit], idempotency_key="once", delay="5m")
    assert first.id == second.id
    assert client.submit("digits", [digit], delay="5m").id != first.id
    with pytest.raises(nobat.InvalidRequest) as other:
        client.submit("digits", [[0.0] * 64], idempotency_key="once", delay="5m")
    assert other.value.code == "idempotency_mismatch"
    ids = {client.predict("digits", [digit], idempotency_key="listed").job_id for _ in range(2)}
    assert len(ids) == 1 and None not in ids


def test_a_key_makes_one_job_of_arrays_too(client: nobat.Client, digit: list[float]) -> None:
    seven, blank = np.array([digit]), np.zeros((1, 64))
    first, second = (client.submit("digits", seven, idempotency_key="array", priority=3) for _ in range(2))
    assert first.id == second.id
    assert first.result(timeout=30)["label"].reshape(-1).tolist() == [7]
    for _ in range(2):
        answer = client.predict("digits", seven, idempotency_key="arrays", deadline="30s")
        assert answer["label"].reshape(-1).tolist() == [7] and answer["probabilities"].dtype == np.float32
    for call in (client.submit, client.predict):
        for key in ("array", "arrays"):
            with pytest.raises(nobat.InvalidRequest) as other:
                call("digits", blank, idempotency_key=key)
            assert other.value.code == "idempotency_mismatch"


def test_what_json_has_no_number_for_is_submitted_in_arrays(client: nobat.Client) -> None:
    assert client.submit("digits", np.full((1, 64), np.nan)).wait(timeout=30).state == "succeeded"
    with pytest.raises(ValueError, match="NaN"):
        client.submit("digits", [[float("nan")] * 64])
    with pytest.raises(ValueError, match="no input 'y'"):
        client.submit("digits", {"y": np.zeros((1, 64))})


def test_refusals_say_what_to_match_on(client: nobat.Client, digit: list[float]) -> None:
    with pytest.raises(nobat.NotFound) as missing:
        client.predict("nothing", [digit])
    assert (missing.value.code, missing.value.status) == ("model_not_found", 404)
    with pytest.raises(nobat.InvalidRequest) as wrong:
        client.predict("digits", [[1.0, 2.0]])
    assert wrong.value.status == 400 and wrong.value.request_id
    with pytest.raises(nobat.InvalidRequest):
        client.predict("digits", np.zeros((1, 3)))
    with pytest.raises(nobat.NotFound):
        client.job("nonsense")
    with pytest.raises(ValueError, match="no input 'y'"):
        client.predict("digits", {"y": np.zeros((1, 64))})
    with pytest.raises(ValueError, match="NaN"):
        client.predict("digits", [[float("nan")] * 64])
    with pytest.raises(ValueError, match="'soon' is no duration"):
        client.predict("digits", [digit], deadline="soon")
    with pytest.raises(TypeError, match="prioritty"):
        client.predict("digits", [digit], prioritty=3)  # type: ignore[call-arg]


def test_map_keeps_the_order_and_takes_no_more_inputs_than_it_must(client: nobat.Client, digit: list[float]) -> None:
    taken = most_ahead = yielded = 0

    def inputs() -> Iterator[nobat.Inputs]:
        nonlocal taken, most_ahead
        for n in range(20_000):
            taken += 1
            most_ahead = max(most_ahead, taken - yielded)
            yield np.array([digit] * (1 + n % 3))

    for answer in client.map("digits", inputs(), concurrency=2, priority=0):
        assert answer.index == yielded and answer["label"].tolist() == [7] * (1 + yielded % 3)
        yielded += 1
    assert yielded == 20_000
    assert most_ahead <= 2 * 2 * MOST_ROWS + 1


def test_map_in_any_order_answers_each_once(client: nobat.Client, golden: tuple[list[list[float]], list[int]]) -> None:
    rows, labels = golden
    inputs = [np.array(rows[n % 64], dtype=np.float32) for n in range(3_000)]
    seen = {answer.index: answer["label"].item() for answer in client.map("digits", inputs, ordered=False)}
    assert seen == {n: labels[n % 64] for n in range(3_000)}


def test_a_row_without_the_batch_axis_is_answered_without_it(client: nobat.Client, golden: tuple[list[list[float]], list[int]]) -> None:
    rows, labels = golden
    array = np.array(rows, dtype=np.float32)
    of_arrays = list(client.map("digits", array))
    assert [answer["label"].item() for answer in of_arrays] == labels
    assert all(answer["probabilities"].shape == (10,) for answer in of_arrays)
    of_lists = list(client.map("digits", rows))
    assert [answer["label"] for answer in of_lists] == labels
    np.testing.assert_allclose([answer["probabilities"] for answer in of_lists], [answer["probabilities"] for answer in of_arrays])
    named = list(client.map("digits", [{"input": rows[0]}, {"input": [rows[1], rows[2]]}], outputs=["label"]))
    assert [dict(answer.outputs) for answer in named] == [{"label": labels[0]}, {"label": labels[1:3]}]


def test_progress_changes_no_answer(client: nobat.Client, digit: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    inputs = [np.array([digit])] * 5
    assert len(list(client.map("digits", inputs, progress=True))) == 5
    assert "5/5" in capsys.readouterr().err


def test_map_raises_the_first_failure_in_its_place(client: nobat.Client, digit: list[float]) -> None:
    good, bad = np.array([digit]), np.zeros((1, 3))
    answers = client.map("digits", [good, good, bad, good], concurrency=2)
    assert [len(next(answers)["label"]), len(next(answers)["label"])] == [1, 1]
    with pytest.raises(nobat.InvalidRequest) as refused:
        next(answers)
    assert refused.value.index == 2


def test_bad_inputs_fail_alone_whatever_they_travel_with(client: nobat.Client, digit: list[float]) -> None:
    inputs: list[Any] = [np.array([digit], dtype=np.float32) for _ in range(500)]
    bad: dict[int, tuple[Any, type[nobat.NobatError]]] = {
        3: (np.zeros((1, 3)), nobat.InvalidRequest), 77: (np.array([["x"] * 64]), nobat.InvalidInput),
        200: ([["x"] * 64], nobat.InvalidRequest), 201: ([digit[:-1]], nobat.InvalidRequest),
        202: ({"y": [digit]}, nobat.InvalidInput), 203: ([digit, digit[:3]], nobat.NobatError), 499: (7.0, nobat.InvalidRequest),
    }  # fmt: skip
    for index, (one, _) in bad.items():
        inputs[index] = one
    for ordered in (True, False):
        count = 0
        for outcome in client.map("digits", inputs, on_error="yield", ordered=ordered):
            assert outcome.index is not None
            count += 1
            if outcome.index in bad:
                assert isinstance(outcome, bad[outcome.index][1]), outcome
            else:
                assert isinstance(outcome, nobat.Prediction) and outcome["label"].tolist() == [7], outcome
        assert count == 500


def test_map_is_left_at_any_time(client: nobat.Client, digit: list[float]) -> None:
    endless = (np.array([digit]) for _ in iter(int, 1))
    for count, answer in enumerate(client.map("digits", endless, concurrency=4)):
        assert answer.index == count
        if count == 100:
            break
    assert client.predict("digits", np.array([digit]))["label"].tolist() == [7]
    with pytest.raises(ZeroDivisionError):
        list(client.map("digits", (np.array([[1 / n] * 64]) for n in (1, 0))))
    with pytest.raises(nobat.NotFound):
        list(client.map("nothing", [[digit]]))
    with pytest.raises(nobat.InvalidInput, match="concurrency"):
        list(client.map("digits", [[digit]], concurrency=0))


def test_slow_inputs_are_answered_before_the_last_comes(client: nobat.Client, digit: list[float]) -> None:
    taken = 0

    def slowly() -> Iterator[nobat.Inputs]:
        nonlocal taken
        for _ in range(5):
            taken += 1
            yield np.array([digit])
            time.sleep(0.1)

    first = next(client.map("digits", slowly()))
    assert first.index == 0 and taken < 5


def test_models_tell_what_they_take(client: nobat.Client) -> None:
    digits = next(model for model in client.models() if model.name == "digits")
    assert digits.ready and digits.inputs[0].datatype == "FP32"
    assert {spec.name for spec in digits.outputs} == {"label", "probabilities"}


def test_a_server_that_serves_is_ready(client: nobat.Client) -> None:
    assert client.ready()


def test_redriving_nothing_redrives_nothing(client: nobat.Client) -> None:
    assert client.redrive("digits") == 0
    assert list(client.jobs(state="dead")) == []


def test_the_asynchronous_client_does_the_same(server: Server, client: nobat.Client, digit: list[float]) -> None:
    async def work() -> None:
        async with nobat.AsyncClient(server.url) as aclient:
            answer = await aclient.predict("digits", np.array([digit]))
            assert answer["label"].reshape(-1).tolist() == [7]
            job = await aclient.submit("digits", [digit], priority=3)
            assert (await job.result(timeout=30))["label"] in ([7], [[7]])
            assert await job.status() == "succeeded"
            assert (await job.timings()) is not None
            again = await aclient.job(job.id)
            assert again.info.state == "succeeded"
            count = 0
            async for one in aclient.map("digits", (np.array([digit]) for _ in range(5000)), concurrency=8):
                assert one["label"].tolist() == [7] and one.index == count
                count += 1
            assert count == 5000

            async def given() -> AsyncIterator[nobat.Inputs]:
                for n in range(100):
                    yield digit if n != 40 else [["x"] * 64]

            bad = []
            async for outcome in aclient.map("digits", given(), on_error="yield", ordered=False):
                if isinstance(outcome, nobat.NobatError):
                    bad.append(outcome.index)
                else:
                    assert outcome["label"] == 7
            assert bad == [40]
            assert await aclient.ready()
            assert (await job.wait()).state == "succeeded"
            assert job.id in [info.id async for info in aclient.jobs(state="succeeded", page=3)]
            waits = await aclient.submit("digits", [digit], delay="5m")
            assert (await waits.cancel()).state == "cancelled"
            assert "digits" in [model.name for model in await aclient.models()]
            with pytest.raises(nobat.NotFound):
                await aclient.predict("nothing", [digit])

    asyncio.run(work())


def test_a_client_is_shared_by_threads(client: nobat.Client, digit: list[float]) -> None:
    wrong: list[BaseException] = []

    def one() -> None:
        try:
            for _ in range(10):
                assert client.predict("digits", np.array([digit]))["label"].reshape(-1).tolist() == [7]
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_numpy_is_not_needed(server: Server, digit: list[float]) -> None:
    program = f"""
import sys
sys.modules["numpy"] = None
import nobat
with nobat.Client({server.url!r}) as client:
    print(client.predict("digits", [{digit!r}])["label"], client.submit("digits", [{digit!r}]).result()["label"])
    print([answer["label"] for answer in client.map("digits", [{digit!r}] * 3)])
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert said.returncode == 0, said.stderr
    assert said.stdout.count("7") == 5
