"""tritonclient.http, every call of it."""

import json
import shutil

import gevent
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from conftest import MODELS
from datatypes import IN_JSON, VALUES


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.http, concurrency=8, network_timeout=60) as client:
        yield client


def given(name, values, datatype, binary=True):
    tensor = triton.InferInput(name, list(values.shape), datatype)
    return tensor.set_data_from_numpy(values, binary_data=binary)


def digit(rows=1):
    return given("input", np.zeros((rows, 64), np.float32), "FP32")


@pytest.mark.parametrize("datatype", VALUES)
def test_every_datatype_comes_back_the_same_in_binary(client, datatype):
    values = VALUES[datatype]
    result = client.infer(f"identity_{datatype.lower()}", [given("x", values, datatype)], request_id="seven")
    np.testing.assert_array_equal(result.as_numpy("y"), values)
    assert result.get_output("y")["datatype"] == datatype
    assert result.get_response()["id"] == "seven"


@pytest.mark.parametrize("datatype", IN_JSON)
def test_every_datatype_that_json_can_carry_comes_back_the_same(client, datatype):
    values = IN_JSON[datatype]
    wanted = [triton.InferRequestedOutput("y", binary_data=False)]
    result = client.infer(f"identity_{datatype.lower()}", [given("x", values, datatype, False)], outputs=wanted)
    if datatype == "BYTES":
        assert result.get_output("y")["data"] == values.flatten().tolist()
    else:
        np.testing.assert_array_equal(result.as_numpy("y"), values)


def test_json_and_binary_tensors_mix(client):
    floats, integers = np.array([[1, 2, 3]], np.float32), np.array([7], np.int64)
    wanted = [triton.InferRequestedOutput("negative", True), triton.InferRequestedOutput("double", False)]
    result = client.infer("two_by_two", [given("a", floats, "FP32", False), given("b", integers, "INT64")], outputs=wanted)
    assert result.get_output("double")["data"] == [2, 4, 6]
    np.testing.assert_array_equal(result.as_numpy("negative"), [-7])
    assert [output["name"] for output in result.get_response()["outputs"]] == ["negative", "double"]


def test_an_optional_input_may_be_left_out(client):
    x = given("x", np.array([[1, 2]], np.float32), "FP32")
    np.testing.assert_array_equal(client.infer("optional_input", [x]).as_numpy("y"), [[11, 22]])
    bias = given("bias", np.array([5, 5], np.float32), "FP32")
    np.testing.assert_array_equal(client.infer("optional_input", [x, bias]).as_numpy("y"), [[6, 7]])


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compression_both_ways(client, coding):
    values = np.tile(np.arange(100, dtype=np.float32), (40, 10))
    result = client.infer(
        "identity_fp32", [given("x", values, "FP32")],
        request_compression_algorithm=coding, response_compression_algorithm=coding,
    )
    np.testing.assert_array_equal(result.as_numpy("y"), values)


@pytest.mark.parametrize("binary", [True, False])
def test_classification_gives_the_best_classes_with_labels(client, binary):
    wanted = [triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=3)]
    result = client.infer("digits", [digit(2)], outputs=wanted)
    rows = result.as_numpy("probabilities")
    assert rows.shape == (2, 3)
    value, index, label = [text.decode() if isinstance(text, bytes) else text for text in rows[0]][0].split(":")
    assert 0 < float(value) <= 1 and label == "zero one two three four five six seven eight nine".split()[int(index)]


def test_versions_are_addressed_and_named(client):
    x = given("x", np.array([[1, 2, 3, 4]], np.float32), "FP32")
    for version, sign in (("1", 1), ("2", -1), ("", -1)):
        result = client.infer("versioned", [x], model_version=version)
        assert result.get_response()["model_version"] == (version or "2")
        assert result.as_numpy("y")[0][0] == sign
    assert client.is_model_ready("versioned", "1") and not client.is_model_ready("versioned", "3")


def test_requests_sent_together_are_answered_each_with_its_own(client):
    pending = [
        client.async_infer("identity_int64", [given("x", np.array([[at]], np.int64), "INT64")], request_id=str(at))
        for at in range(40)
    ]
    for at, request in enumerate(pending):
        result = request.get_result(timeout=60)
        assert (result.as_numpy("y")[0][0], result.get_response()["id"]) == (at, str(at))


def test_a_body_prepared_ahead_is_read_and_its_answer_too(client, server):
    body, length = client.generate_request_body([digit()], outputs=[triton.InferRequestedOutput("label")])
    import urllib.request

    request = urllib.request.Request(f"{server.url}/v2/models/digits/infer", body)
    request.add_header("Inference-Header-Content-Length", str(length))
    with urllib.request.urlopen(request, timeout=60) as response:
        header = int(response.headers["Inference-Header-Content-Length"])
        result = client.parse_response_body(response.read(), header_length=header)
    assert result.as_numpy("label").shape == (1,)


def test_priority_timeout_and_a_models_own_parameters_are_taken(client):
    result = client.infer("digits", [digit()], priority=1, timeout=30_000_000, parameters={"temperature": 0.5})
    assert result.as_numpy("label").shape == (1,)


def test_a_timeout_ends_a_slow_run_with_504(client):
    steps, x = given("n", np.array(10**9, np.int64), "INT64"), given("x", np.zeros((1, 16), np.float32), "FP32")
    with pytest.raises(InferenceServerException) as refused:
        client.infer("slow", [steps, x], timeout=300_000)
    assert refused.value.status() == "504"


def test_refusals_carry_status_and_message(client):
    cases = [
        ("404", "no model `nope`", lambda: client.infer("nope", [digit()])),
        ("404", "version", lambda: client.infer("digits", [digit()], model_version="9")),
        ("400", "input", lambda: client.infer("digits", [given("input", np.zeros((1, 63), np.float32), "FP32")])),
        ("400", "INT32", lambda: client.infer("digits", [given("input", np.zeros((1, 64), np.int32), "INT32")])),
        ("400", "not UTF-8", lambda: client.infer(
            "identity_bytes", [given("x", np.array([[b"\xff"]], np.object_), "BYTES")])),
        ("400", "`other`", lambda: client.infer("digits", [digit()], outputs=[triton.InferRequestedOutput("other")])),
        ("400", "JSON cannot carry", lambda: client.infer(
            "identity_fp16", [given("x", VALUES["FP16"], "FP16")],
            outputs=[triton.InferRequestedOutput("y", binary_data=False)])),
        ("501", "sequence", lambda: client.infer("digits", [digit()], sequence_id=3, sequence_start=True)),
        ("501", "shared memory", lambda: client.register_system_shared_memory("r", "/r", 8)),
        ("404", "no model", lambda: client.get_model_metadata("nope")),
    ]
    for status, named, call in cases:
        with pytest.raises(InferenceServerException) as refused:
            call()
        assert refused.value.status() == status and named in refused.value.message(), refused.value


def test_the_server_and_its_models_describe_themselves(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("digits") and not client.is_model_ready("nope")
    about = client.get_server_metadata()
    assert about["name"] == "nobat" and "binary_tensor_data" in about["extensions"]
    metadata = client.get_model_metadata("digits")
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 64]}]
    assert client.get_model_metadata("versioned")["versions"] == ["1", "2"]
    config = client.get_model_config("digits")
    assert (config["input"][0]["data_type"], config["input"][0]["dims"]) == ("TYPE_FP32", [64])
    assert config["max_batch_size"] > 1 and config["dynamic_batching"] == {}


def test_statistics_count_rows_and_runs(client):
    def figures():
        (row,) = client.get_inference_statistics("identity_uint16")["model_stats"]
        return row["inference_count"], row["execution_count"], row["inference_stats"]["success"]["count"]

    before = figures()
    for _ in range(3):
        client.infer("identity_uint16", [given("x", np.zeros((4, 1), np.uint16), "UINT16")])
    after = figures()
    assert [now - then for now, then in zip(after, before)] == [12, 3, 3]
    names = {row["name"] for row in client.get_inference_statistics()["model_stats"]}
    assert {"digits", "versioned", "slow"} <= names


def test_a_model_is_loaded_served_and_unloaded(client, server):
    shutil.copy(MODELS / "mixing.onnx", server.models / "late.onnx")
    state = lambda: {row["name"]: row["state"] for row in client.get_model_repository_index()}.get("late")
    assert state() is None
    client.load_model("late")
    assert state() == "READY"
    x = given("x", np.zeros((1, 4), np.float32), "FP32")
    np.testing.assert_array_equal(client.infer("late", [x]).as_numpy("y"), [[1, 1, 1, 1]])
    client.unload_model("late")
    assert state() in (None, "UNAVAILABLE") and not client.is_model_ready("late")
    (server.models / "late.onnx").unlink()
    with pytest.raises(InferenceServerException):
        client.load_model("late")
    with pytest.raises(InferenceServerException) as refused:
        client.load_model("digits", config=json.dumps({"max_batch_size": 4}))
    assert refused.value.status() == "501"


def test_settings_can_be_read_and_shared_memory_is_empty(client):
    assert client.get_trace_settings()["trace_level"] == ["OFF"]
    assert client.get_trace_settings("digits")["trace_level"] == ["OFF"]
    assert client.get_log_settings()["log_error"] is True
    assert client.get_system_shared_memory_status() == [] == client.get_cuda_shared_memory_status()
    client.unregister_system_shared_memory()
    client.unregister_cuda_shared_memory("r")


def test_the_async_client_speaks_too(server):
    import asyncio

    import tritonclient.http.aio as aio

    async def run():
        async with aio.InferenceServerClient(server.http) as client:
            assert await client.is_server_ready()
            results = await asyncio.gather(*(
                client.infer("identity_int64", [given("x", np.array([[at]], np.int64), "INT64")]) for at in range(20)
            ))
            return [result.as_numpy("y")[0][0] for result in results]

    assert asyncio.run(run()) == list(range(20))
    gevent.sleep(0)
