"""OpenAI's, Cohere's and LangChain's clients, unchanged, against one `nobat serve` of small models.

NOBAT_BIN names the binary; `scripts/check_text_clients` builds it and sets it.
"""

import base64
import json
import math
import os
import pathlib
import re
import struct
import subprocess
import threading
import time
import urllib.request

import cohere
import openai
import pytest
from langchain_openai import OpenAIEmbeddings

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODELS = ROOT / "tests" / "text_models"
START_LIMIT_S = 120
BATCH_LIMIT_S = 120


@pytest.fixture(scope="session")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nobat")
    command = [os.environ["NOBAT_BIN"], "serve", "--models", MODELS, "--data", folder / "data"]
    command += ["--listen", "127.0.0.1:0", "--grpc", "", "--metrics", ""]
    with open(folder / "server.log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True)
    watchdog = threading.Timer(START_LIMIT_S, process.kill)
    watchdog.start()
    try:
        for line in process.stdout:
            if found := re.match(r"^  http\s+(\S+)", line):
                break
        else:
            raise RuntimeError(f"the server did not start: {(folder / 'server.log').read_text()}")
        watchdog.cancel()
        yield found[1]
    finally:
        watchdog.cancel()
        process.terminate()
        assert process.wait(timeout=60) == 0, "the server did not drain"


@pytest.fixture(scope="session")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def length(vector):
    return math.sqrt(sum(value * value for value in vector))


def post(url, path, body):
    request = urllib.request.Request(f"{url}{path}", json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def test_openai_lists_models_and_embeds(client):
    names = [model.id for model in client.models.list()]
    assert {"embed", "rerank", "classify"} <= set(names)
    assert client.models.retrieve("embed").id == "embed"
    one = client.embeddings.create(model="embed", input="hello world")
    many = client.embeddings.create(model="embed", input=["something else", "hello world", ""])
    assert [entry.index for entry in many.data] == [0, 1, 2]
    assert many.data[1].embedding == pytest.approx(one.data[0].embedding, abs=1e-4)
    assert one.usage.prompt_tokens == one.usage.total_tokens > 0
    floats = client.embeddings.create(model="embed", input="hello world", encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(one.data[0].embedding, abs=1e-6)
    raw = client.embeddings.with_raw_response.create(model="embed", input="hello world", encoding_format="base64")
    text = json.loads(raw.text)["data"][0]["embedding"]
    packed = base64.b64decode(text)
    assert struct.unpack(f"<{len(packed) // 4}f", packed) == pytest.approx(one.data[0].embedding, abs=1e-6)


def test_openai_cuts_dimensions_and_takes_token_ids(client, url):
    whole = client.embeddings.create(model="embed", input="hello world").data[0].embedding
    cut = client.embeddings.create(model="embed", input="hello world", dimensions=4).data[0].embedding
    assert len(cut) == 4 and length(cut) == pytest.approx(1, abs=1e-4)
    scale = length(whole[:4])
    assert cut == pytest.approx([value / scale for value in whole[:4]], abs=1e-4)
    tokens = post(url, "/tokenize", {"inputs": "hello world", "model": "embed"})[0]
    ids = [token["id"] for token in tokens if not token["special"]]
    by_ids = client.embeddings.create(model="embed", input=ids).data[0].embedding
    assert by_ids == pytest.approx(whole, abs=1e-4)


def test_openai_s_exceptions_are_its_own(client):
    with pytest.raises(openai.BadRequestError, match="input is empty"):
        client.embeddings.create(model="embed", input=[])
    with pytest.raises(openai.NotFoundError, match="nobody"):
        client.embeddings.create(model="nobody", input="a")
    with pytest.raises(openai.BadRequestError, match="dimensions"):
        client.embeddings.create(model="embed", input="a", dimensions=1_000_000)
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_0")


def test_openai_embeds_more_texts_than_other_servers_take(client):
    texts = [f"text number {number % 50}" for number in range(3_000)]
    answer = client.embeddings.create(model="embed", input=texts)
    assert len(answer.data) == len(texts)
    assert answer.data[7].embedding == pytest.approx(answer.data[57].embedding, abs=1e-4)


def test_openai_s_batches_run_to_their_end(client, tmp_path):
    lines = [
        {"custom_id": f"line-{at}", "method": "POST", "url": "/v1/embeddings", "body": {"model": "embed", "input": f"text {at}"}}
        for at in range(200)
    ]
    lines[5]["body"]["model"] = "nobody"
    file = tmp_path / "in.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    with open(file, "rb") as contents:
        uploaded = client.files.create(file=contents, purpose="batch")
    assert uploaded.bytes == file.stat().st_size and uploaded.status == "processed"
    batch = client.batches.create(input_file_id=uploaded.id, endpoint="/v1/embeddings", completion_window="24h")
    end = time.monotonic() + BATCH_LIMIT_S
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert time.monotonic() < end, batch
        time.sleep(0.2)
        batch = client.batches.retrieve(batch.id)
    assert batch.status == "completed", batch
    assert (batch.request_counts.total, batch.request_counts.completed, batch.request_counts.failed) == (200, 199, 1)
    answers = [json.loads(line) for line in client.files.content(batch.output_file_id).text.splitlines()]
    by_id = {answer["custom_id"]: answer["response"]["body"]["data"][0]["embedding"] for answer in answers}
    assert len(answers) == len(by_id) == 199
    alone = client.embeddings.create(model="embed", input="text 17").data[0].embedding
    assert by_id["line-17"] == pytest.approx(alone, abs=1e-4)
    refused = json.loads(client.files.content(batch.error_file_id).text)
    assert refused["custom_id"] == "line-5" and refused["response"]["status_code"] == 404
    assert batch.id in [listed.id for listed in client.batches.list()]
    assert client.files.delete(uploaded.id).deleted


def test_cohere_ranks_documents(url):
    client = cohere.ClientV2(api_key="none", base_url=url)
    documents = ["the weather is fine", "a red apple", "hello world"]
    answer = client.rerank(model="rerank", query="fruit", documents=documents, top_n=2)
    assert len(answer.results) == 2
    scores = [result.relevance_score for result in answer.results]
    assert scores == sorted(scores, reverse=True)
    jina = post(url, "/v1/rerank", {"model": "rerank", "query": "fruit", "documents": documents})
    assert [result["index"] for result in jina["results"]][:2] == [result.index for result in answer.results]
    tei = post(url, "/rerank", {"query": "fruit", "texts": documents})
    assert [result["index"] for result in tei] == [result["index"] for result in jina["results"]]
    with pytest.raises(cohere.errors.NotFoundError):
        client.rerank(model="nobody", query="a", documents=["b"])


def test_langchain_embeds_documents_and_queries(url):
    # It counts tokens by OpenAI's own tables otherwise, which it downloads.
    embeddings = OpenAIEmbeddings(base_url=f"{url}/v1", api_key="none", model="embed", check_embedding_ctx_length=False)
    vectors = embeddings.embed_documents(["first text", "second text"])
    assert embeddings.embed_query("second text") == pytest.approx(vectors[1], abs=1e-4)


def test_text_embeddings_inference_s_calls(url, client):
    whole = client.embeddings.create(model="embed", input="hello world").data[0].embedding
    assert post(url, "/embed", {"inputs": "hello world", "model": "embed"})[0] == pytest.approx(
        [value / length(whole) for value in whole], abs=1e-4
    )
    tokens = post(url, "/embed_all", {"inputs": "hello world", "model": "embed"})[0]
    assert len(tokens) > 2 and len(tokens[0]) > 1
    assert post(url, "/similarity", {"model": "embed", "inputs": {"source_sentence": "a b", "sentences": ["a b"]}}) == [
        pytest.approx(1, abs=1e-4)
    ]
    labels = post(url, "/predict", {"inputs": "hello", "model": "classify"})
    assert [entry["score"] for entry in labels] == sorted((entry["score"] for entry in labels), reverse=True)
    ids = [token["id"] for token in post(url, "/tokenize", {"inputs": "hello world", "model": "embed"})[0]]
    assert "hello" in post(url, "/decode", {"ids": ids, "model": "embed"})[0].lower()
    weights = post(url, "/embed_sparse", {"inputs": "hello world"})[0]
    assert all(set(entry) == {"index", "value"} for entry in weights)
