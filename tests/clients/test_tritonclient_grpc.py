"""tritonclient.grpc, every call of it."""

import queue
import shutil
import threading

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from conftest import MODELS
from datatypes import VALUES

LIMIT_S = 60


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.grpc) as client:
        yield client


def given(name, values, datatype):
    return triton.InferInput(name, list(values.shape), datatype).set_data_from_numpy(values)


def number(at):
    return [given("x", np.array([[at]], np.int64), "INT64")]


def digit(rows=1):
    return given("input", np.zeros((rows, 64), np.float32), "FP32")


#: Steps of the slow model that take seconds, and that take hours.
SECONDS, HOURS = 10**6, 10**10


def slow(steps):
    """A run that takes as long as it is told to."""
    return [given("n", np.array(steps, np.int64), "INT64"), given("x", np.zeros((1, 16), np.float32), "FP32")]


@pytest.mark.parametrize("datatype", VALUES)
def test_every_datatype_comes_back_the_same(client, datatype):
    values = VALUES[datatype]
    result = client.infer(f"identity_{datatype.lower()}", [given("x", values, datatype)], request_id="seven")
    np.testing.assert_array_equal(result.as_numpy("y"), values)
    response = result.get_response()
    assert (response.id, response.model_version, response.outputs[0].datatype) == ("seven", "1", datatype)


@pytest.mark.parametrize("coding", [None, "gzip", "deflate"])
def test_compression(client, coding):
    values = np.tile(np.arange(100, dtype=np.float32), (40, 10))
    result = client.infer("identity_fp32", [given("x", values, "FP32")], compression_algorithm=coding)
    np.testing.assert_array_equal(result.as_numpy("y"), values)


def test_a_message_larger_than_the_frameworks_default_travels_both_ways(client):
    values = np.zeros((1, 8 << 20), np.uint8)
    assert client.infer("identity_uint8", [given("x", values, "UINT8")]).as_numpy("y").nbytes == 8 << 20


def test_several_inputs_and_chosen_outputs(client):
    floats, integers = np.array([[1, 2, 3]], np.float32), np.array([7], np.int64)
    wanted = [triton.InferRequestedOutput("negative")]
    result = client.infer("two_by_two", [given("a", floats, "FP32"), given("b", integers, "INT64")], outputs=wanted)
    np.testing.assert_array_equal(result.as_numpy("negative"), [-7])
    assert result.as_numpy("double") is None


def test_classification_gives_the_best_classes_with_labels(client):
    wanted = [triton.InferRequestedOutput("probabilities", class_count=2)]
    rows = client.infer("digits", [digit(3)], outputs=wanted).as_numpy("probabilities")
    assert rows.shape == (3, 2) and rows[0][0].count(b":") == 2


def test_versions_are_addressed_and_named(client):
    x = given("x", np.array([[1, 2, 3, 4]], np.float32), "FP32")
    for version, sign in (("1", 1), ("2", -1), ("", -1)):
        result = client.infer("versioned", [x], model_version=version)
        assert (result.get_response().model_version, result.as_numpy("y")[0][0]) == (version or "2", sign)


def test_async_calls_are_answered_each_with_its_own(client):
    answers = queue.Queue()
    for at in range(40):
        client.async_infer("identity_int64", number(at), lambda result, error: answers.put((result, error)))
    found = []
    for _ in range(40):
        result, error = answers.get(timeout=LIMIT_S)
        assert error is None
        found.append(result.as_numpy("y")[0][0])
    assert sorted(found) == list(range(40))


def test_a_stream_answers_in_order_and_goes_on_after_an_error(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for at in range(30):
        model = "nope" if at == 7 else "identity_int64"
        client.async_stream_infer(model, number(at), request_id=str(at), enable_empty_final_response=True)
    for at in range(30):
        result, error = answers.get(timeout=LIMIT_S)
        if at == 7:
            assert "no model `nope`" in error.message()
            continue
        assert error is None, error
        response = result.get_response()
        assert (response.id, result.as_numpy("y")[0][0]) == (str(at), at)
        assert response.parameters["triton_final_response"].bool_param
    client.stop_stream()


def test_a_stream_that_is_left_frees_its_jobs(client):
    client.start_stream(lambda result, error: None)
    for _ in range(5):
        client.async_stream_infer("slow", slow(SECONDS))
    client.stop_stream(cancel_requests=True)
    assert client.infer("slow", slow(1)).as_numpy("y").shape == (1, 16), "the model serves on"


def test_a_deadline_ends_the_call(client):
    with pytest.raises(InferenceServerException) as late:
        client.infer("slow", slow(HOURS), client_timeout=0.5)
    assert "DEADLINE_EXCEEDED" in late.value.status()
    with pytest.raises(InferenceServerException) as late:
        client.infer("slow", slow(HOURS), timeout=300_000)
    assert "DEADLINE_EXCEEDED" in late.value.status()
    assert client.infer("slow", slow(1)).as_numpy("y").shape == (1, 16), "the model serves on"


def test_a_cancelled_call_ends_at_once(client):
    ended = threading.Event()
    failure = []

    def callback(result, error):
        failure.append(error)
        ended.set()

    call = client.async_infer("slow", slow(SECONDS), callback)
    call.cancel()
    assert ended.wait(LIMIT_S)
    assert "CANCELLED" in str(failure[0]).upper()


def test_refusals_carry_status_and_message(client):
    infer = client.infer
    cases = [
        ("NOT_FOUND", "no model `nope`", lambda: infer("nope", [digit()])),
        ("NOT_FOUND", "version", lambda: infer("digits", [digit()], model_version="9")),
        ("INVALID_ARGUMENT", "input", lambda: infer("digits", [given("input", np.zeros((1, 63), np.float32), "FP32")])),
        ("INVALID_ARGUMENT", "twice", lambda: infer("digits", [digit(), digit()])),
        ("UNIMPLEMENTED", "sequence", lambda: infer("digits", [digit()], sequence_id=3, sequence_start=True)),
        ("UNIMPLEMENTED", "shared memory", lambda: client.register_system_shared_memory("r", "/r", 8)),
        ("NOT_FOUND", "no model", lambda: client.get_model_metadata("nope")),
    ]
    for status, named, call in cases:
        with pytest.raises(InferenceServerException) as refused:
            call()
        assert status in refused.value.status() and named in refused.value.message(), refused.value


def test_the_server_and_its_models_describe_themselves(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("digits") and client.is_model_ready("versioned", "1")
    assert "statistics" in client.get_server_metadata().extensions
    metadata = client.get_model_metadata("digits", as_json=True)
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": ["-1", "64"]}]
    config = client.get_model_config("digits").config
    assert (config.name, config.platform, list(config.input[0].dims)) == ("digits", "onnxruntime_onnx", [64])
    assert config.max_batch_size > 1 and config.HasField("dynamic_batching")


def test_statistics_count_rows_and_runs(client):
    def figures():
        (row,) = client.get_inference_statistics("identity_int16").model_stats
        return row.inference_count, row.execution_count, row.inference_stats.success.count

    before = figures()
    for _ in range(3):
        client.infer("identity_int16", [given("x", np.zeros((4, 1), np.int16), "INT16")])
    assert [now - then for now, then in zip(figures(), before)] == [12, 3, 3]
    assert len(client.get_inference_statistics().model_stats) > 10


def test_a_model_is_loaded_served_and_unloaded(client, server):
    shutil.copy(MODELS / "mixing.onnx", server.models / "late_grpc.onnx")
    client.load_model("late_grpc")
    states = lambda: {row.name: row.state for row in client.get_model_repository_index().models}
    assert states()["late_grpc"] == "READY"
    assert client.infer("late_grpc", [given("x", np.zeros((1, 4), np.float32), "FP32")]).as_numpy("y").shape == (1, 4)
    client.unload_model("late_grpc")
    assert states().get("late_grpc") in (None, "UNAVAILABLE")
    (server.models / "late_grpc.onnx").unlink()


def test_settings_can_be_read_and_shared_memory_is_empty(client):
    assert list(client.get_trace_settings().settings["trace_level"].value) == ["OFF"]
    assert client.get_log_settings().settings["log_error"].bool_param
    assert not client.get_system_shared_memory_status().regions
    assert not client.get_cuda_shared_memory_status().regions
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory("r")


def test_the_async_client_speaks_and_streams_too(server):
    import asyncio

    import tritonclient.grpc.aio as aio

    async def requests():
        for at in range(10):
            yield {"model_name": "identity_int64", "inputs": number(at)}

    async def run():
        async with aio.InferenceServerClient(server.grpc) as client:
            assert await client.is_model_ready("digits")
            together = await asyncio.gather(*(client.infer("identity_int64", number(at)) for at in range(20)))
            streamed = [result.as_numpy("y")[0][0] async for result, error in client.stream_infer(requests())]
            return [result.as_numpy("y")[0][0] for result in together], streamed

    assert asyncio.run(run()) == (list(range(20)), list(range(10)))
