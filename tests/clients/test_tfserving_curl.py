"""TensorFlow Serving's REST API as curl speaks it: what goes in, and byte for byte what comes out.

curl sends a form content type with -d; the server must not mind.
"""

import json
import subprocess

import pytest

M = "/v1/models"
AVAILABLE = '"state":"AVAILABLE","status":{"error_code":"OK","error_message":""}'

#: name: (path, body, answer)
GOLDENS = {
    "row form, one input": (
        f"{M}/identity_fp32:predict", '{"instances": [[1.5, 2, -0.25], [1e10, 0.1, 3]]}',
        '{"predictions":[[1.5,2.0,-0.25],[10000000000.0,0.1,3.0]]}'),
    "row form, several inputs and outputs": (
        f"{M}/two_by_two:predict", '{"instances": [{"a": [1, 2, 3], "b": 4}, {"a": [0, 0, 0.5], "b": -5}]}',
        '{"predictions":[{"double":[2.0,4.0,6.0],"negative":-4},{"double":[0.0,0.0,1.0],"negative":5}]}'),
    "column form, one input": (
        f"{M}/identity_int64:predict", '{"inputs": [[1, 2], [3, 4]]}', '{"outputs":[[1,2],[3,4]]}'),
    "column form, several inputs and outputs": (
        f"{M}/two_by_two:predict",
        '{"signature_name": "serving_default", "inputs": {"a": [[1, 2, 3]], "b": [4]}}',
        '{"outputs":{"double":[[2.0,4.0,6.0]],"negative":[-4]}}'),
    "an optional input left out": (
        f"{M}/optional_input:predict", '{"instances": [[1, 2], [3, 4]]}', '{"predictions":[[11.0,22.0],[13.0,24.0]]}'),
    "booleans": (f"{M}/identity_bool:predict", '{"instances": [[true, false]]}', '{"predictions":[[true,false]]}'),
    "the ends of 64 bits": (
        f"{M}/identity_uint64:predict", '{"instances": [[0, 18446744073709551615]]}',
        '{"predictions":[[0,18446744073709551615]]}'),
    "text": (
        f"{M}/identity_bytes:predict", '{"instances": [["hé\\u0021", ""]]}', '{"predictions":[["hé!",""]]}'),
    "base64 in, base64 out where the name says bytes": (
        f"{M}/named_bytes:predict", '{"instances": [{"b64": "w6k="}, {"b64": "aGk="}]}',
        '{"predictions":[{"b64":"w6k="},{"b64":"aGk="}]}'),
    "base64 in column form, by name": (
        f"{M}/named_bytes:predict", '{"inputs": {"image_bytes": [{"b64": "aGk="}]}}', '{"outputs":[{"b64":"aGk="}]}'),
    "regress": (
        f"{M}/fails_on_marked_row:regress", '{"examples": [{"index": 3}, {"index": 9}]}', '{"result":[3.0,9.0]}'),
    "a version": (f"{M}/versioned/versions/1:predict", '{"instances": [[1, 2, 3, 4]]}', '{"predictions":[[1.0,2.0,3.0,4.0]]}'),
    "the newest version": (f"{M}/versioned:predict", '{"inputs": [[1, 2, 3, 4]]}', '{"outputs":[[-1.0,-2.0,-3.0,-4.0]]}'),
    "a label": (f"{M}/versioned/labels/stable:predict", '{"inputs": [[1, 2, 3, 4]]}', '{"outputs":[[1.0,2.0,3.0,4.0]]}'),
    "status of every version": (
        f"{M}/versioned", None, f'[{{"version":"2",{AVAILABLE}}},{{"version":"1",{AVAILABLE}}}]'),
    "status of a version": (f"{M}/versioned/versions/1", None, f'[{{"version":"1",{AVAILABLE}}}]'),
    "status of a label": (f"{M}/versioned/labels/canary", None, f'[{{"version":"2",{AVAILABLE}}}]'),
}

#: name: (path, body, status, what the message says)
REFUSALS = {
    "no such model": (f"{M}/nope:predict", '{"instances": [1]}', 404, "no model `nope`"),
    "no such version": (f"{M}/digits/versions/9:predict", '{"instances": [1]}', 404, "no version `9`"),
    "no such label": (f"{M}/versioned/labels/beta:predict", '{"instances": [1]}', 404, "beta"),
    "no such model's status": (f"{M}/nope", None, 404, "no model `nope`"),
    "an empty body": (f"{M}/digits:predict", "", 400, "empty"),
    "not JSON": (f"{M}/digits:predict", "{", 400, "ends inside"),
    "both forms": (f"{M}/identity_fp32:predict", '{"instances": [[1]], "inputs": [[1]]}', 400, "twice"),
    "ragged rows": (f"{M}/identity_fp32:predict", '{"instances": [[1, 2], [3]]}', 400, "ragged"),
    "a wrong shape": (f"{M}/digits:predict", '{"instances": [[1, 2, 3]]}', 400, "[1, 3]"),
    "a wrong datatype": (f"{M}/identity_int8:predict", '{"instances": [[1.5]]}', 400, "INT8"),
    "bytes that the model cannot hold": (f"{M}/named_bytes:predict", '{"instances": [{"b64": "/w=="}]}', 400, "UTF-8"),
    "bad base64": (f"{M}/named_bytes:predict", '{"instances": [{"b64": "!"}]}', 400, "base64"),
    "another signature": (f"{M}/digits:predict", '{"signature_name": "x", "instances": []}', 400, "signature `x`"),
    "a model that cannot classify": (f"{M}/identity_bytes:classify", '{"examples": []}', 400, "cannot classify"),
    "an input that the model cannot compute": (
        f"{M}/fails_on_marked_row:predict", '{"instances": [99]}', 400, "out of data bounds"),
}


def curl(server, path, body=None, *options):
    """Status, headers and body of one call."""
    command = ["curl", "-sS", "--max-time", "60", "-w", "\n%{http_code} %{content_type}", *options]
    command += ["-d", body] if body is not None else []
    answer = subprocess.run([*command, server.url + path], capture_output=True, text=True, check=True).stdout
    text, _, last = answer.rpartition("\n")
    status, kind = last.split(" ", 1)
    return int(status), kind, text


@pytest.mark.parametrize("name", GOLDENS)
def test_golden(server, name):
    path, body, answer = GOLDENS[name]
    status, kind, text = curl(server, path, body)
    assert (status, kind) == (200, "application/json"), text
    if body is None:
        # The object also carries what kserve and OpenAI clients read.
        text = json.dumps(json.loads(text)["model_version_status"], separators=(",", ":"))
    assert text == answer


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(server, name):
    path, body, expected, said = REFUSALS[name]
    status, kind, text = curl(server, path, body)
    assert (status, kind) == (expected, "application/json"), text
    assert said in json.loads(text)["error"]


def test_the_example_of_the_readme(server):
    status, _, text = curl(server, f"{M}/digits:predict", '{"instances": [%s]}' % ([0.0] * 64))
    (answer,) = json.loads(text)["predictions"]
    assert status == 200 and answer["label"] in range(10)
    assert abs(sum(answer["probabilities"]) - 1) < 1e-3


def test_classify_names_the_classes(server):
    status, _, text = curl(server, f"{M}/digits:classify", '{"examples": [{"input": %s}]}' % ([0.0] * 64))
    (classes,) = json.loads(text)["result"]
    assert status == 200 and [name for name, _ in classes][:3] == ["zero", "one", "two"]


def test_metadata_describes_the_signature(server):
    metadata = json.loads(curl(server, f"{M}/digits/metadata")[2])
    assert metadata["model_spec"] == {"name": "digits", "signature_name": "", "version": "1"}
    signature = metadata["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["input"] == {
        "name": "input", "dtype": "DT_FLOAT",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}, {"size": "64", "name": ""}], "unknown_rank": False},
    }


def test_a_wrong_method_says_what_is_allowed(server):
    status, _, _ = curl(server, f"{M}/digits:predict")
    assert status == 405
    assert "allow: POST" in curl(server, f"{M}/digits:predict", None, "-i")[2].lower().replace("post", "POST")


def test_compressed_both_ways(server, tmp_path):
    body = tmp_path / "body.gz"
    import gzip

    body.write_bytes(gzip.compress(json.dumps({"instances": [[0.5] * 4000]}).encode()))
    options = ("-H", "Content-Encoding: gzip", "--data-binary", f"@{body}", "--compressed")
    status, _, text = curl(server, f"{M}/identity_fp32:predict", None, *options)
    assert status == 200 and json.loads(text) == {"predictions": [[0.5] * 4000]}


def test_kserve_and_openai_read_the_same_paths(server):
    models = json.loads(curl(server, M)[2])
    assert {"digits", "versioned"} <= set(models["models"])
    assert {"id": "digits", "object": "model", "owned_by": "nobat", "created": 0} in models["data"]
    assert json.loads(curl(server, f"{M}/digits")[2])["ready"] is True
