"""The kserve SDK: REST in both protocols, gRPC."""

import asyncio

import httpx
import numpy as np
import pytest
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest
from kserve.inference_client import RESTConfig


def digits(rows, as_json=False):
    tensor = InferInput("input", [rows, 64], "FP32")
    tensor.set_data_from_numpy(np.zeros((rows, 64), np.float32), binary_data=not as_json)
    return InferRequest(model_name="digits", infer_inputs=[tensor], request_id="r1")


def run(protocol, step):
    async def steps():
        async with InferenceRESTClient(RESTConfig(protocol=protocol)) as client:
            return await step(client)

    return asyncio.run(steps())


@pytest.mark.parametrize("as_json", [False, True])
def test_v2_infers(server, as_json):
    async def step(client):
        return await client.infer(server.url, digits(2, as_json), model_name="digits")

    response = run("v2", step)
    assert (response.id, response.model_name) == ("r1", "digits")
    label = response.get_output_by_name("label")
    assert (label.datatype, label.shape, len(label.as_numpy())) == ("INT64", [2], 2)


def test_v2_is_asked_for_health_and_readiness(server):
    async def step(client):
        return [
            await client.is_server_live(server.url),
            await client.is_server_ready(server.url),
            await client.is_model_ready(server.url, "digits"),
            await client.is_model_ready(server.url, "nope"),
        ]

    assert run("v2", step) == [True, True, True, False]


def test_v1_predicts_and_is_asked_for_health_and_readiness(server):
    async def step(client):
        body = {"instances": np.zeros((2, 64)).tolist()}
        answer = await client.infer(server.url, body, model_name="digits")
        live = await client.is_server_live(server.url)
        return answer, live, await client.is_model_ready(server.url, "digits")

    answer, live, ready = run("v1", step)
    assert len(answer["predictions"]) == 2 and set(answer["predictions"][0]) == {"label", "probabilities"}
    assert live is True and ready is True


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_refusals_carry_the_message(server, protocol):
    async def step(client):
        data = digits(1) if protocol == "v2" else {"instances": [[0] * 64]}
        with pytest.raises(httpx.HTTPStatusError) as refused:
            await client.infer(server.url, data, model_name="nope")
        return refused.value

    refused = run(protocol, step)
    assert refused.response.status_code == 404 and "no model `nope`" in str(refused)


def test_grpc_infers_and_is_asked_for_health(server):
    async def steps():
        async with InferenceGRPCClient(server.grpc) as client:
            health = [
                await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("digits"),
            ]
            return health, await client.infer(digits(3))

    health, response = asyncio.run(steps())
    assert health == [True, True, True]
    assert response.get_output_by_name("probabilities").as_numpy().shape == (3, 10)
