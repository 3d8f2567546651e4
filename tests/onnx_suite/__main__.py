"""The ONNX standard's operator tests against `nobat serve`; see scripts/onnx_suite.

First each case as it is, over every protocol: the answer equals onnxruntime's
own, or the refusal's reason is true. Then the cases with a symbolic first axis,
different requests at once, so that they share runs: each answer is the one that
the model gives alone.
"""

import argparse
import collections
import concurrent.futures
import pathlib
import re
import sys
import tempfile
import threading
import time

import onnx

import report
import symbolic
from alone import Alone, Unlike
from cases import all_cases, sample
from reasons import at_load, at_request
from rows import Rows
from served import Server
from tensors import difference
from wire import PROTOCOLS, Client, Refused, without_specials

# Models that one server holds: each costs a thread and a session's memory.
CHUNK = 400
THREADS = 8
CLIENTS = 16
WAVES = 2
COMMON = {
    "NOBAT_WORKER__SESSIONS": "1",
    "NOBAT_WORKER__LOADING__PROBE_MS": "1",
    "NOBAT_GATEWAY__SYNC_TIMEOUT_S": "60",
    "NOBAT_LOG__LEVEL": "warn",
}
# A wave of clients fills a batch, or waits long enough for the slowest of them.
TOGETHER = {
    "NOBAT_WORKER__BATCHING__POLICY": "fixed",
    "NOBAT_WORKER__BATCHING__MAX_BATCH_SIZE": "24",
    "NOBAT_WORKER__BATCHING__MAX_QUEUE_DELAY_MS": "30",
    # Some cases have ten thousand rows.
    "NOBAT_WORKER__BATCHING__MAX_ROWS": "30000",
}


class Expected:
    """A case with what onnxruntime alone makes of it."""

    def __init__(self, case):
        self.case, self.error, self.outputs, self.random, self.declared = case, "", None, False, {}
        if case.skip:
            return
        try:
            alone = Alone(case.model.SerializeToString())
            self.declared = {name: input.shape for name, input in alone.inputs.items()}
            self.outputs = alone.run(case.inputs)
            self.random = is_random(alone, case.inputs, self.outputs)
        except Unlike as error:
            case.skip = str(error)
        except Exception as error:
            self.error = str(error)


def is_random(alone, inputs, outputs):
    """Whether a model answers otherwise when it is asked again; some only the third time."""
    again = (alone.run(inputs) for _ in range(4))
    return any(difference(outputs[name], other[name]) for other in again for name in outputs)


def main():
    arguments = read_arguments()
    cases = [case for case in all_cases() if re.search(arguments.only, case.name)]
    if arguments.sample:
        cases = sample(cases, arguments.sample)
    say(f"{len(cases)} cases")
    result = report.Report()
    if "plain" in arguments.parts:
        plain(cases, result)
    if "batched" in arguments.parts:
        batched(cases, result)
    print(result.text())
    if arguments.report:
        pathlib.Path(arguments.report).write_text(result.json())
    return 1 if result.failures else 0


def read_arguments():
    parser = argparse.ArgumentParser(prog="scripts/onnx_suite")
    parser.add_argument("--sample", type=int, default=0, help="so many cases, the same ones each time; 0: all")
    parser.add_argument("--only", default="", help="cases whose name matches this pattern")
    parser.add_argument("--parts", nargs="+", choices=("plain", "batched"), default=("plain", "batched"))
    parser.add_argument("--report", help="file for the outcome of every case, as JSON")
    return parser.parse_args()


def say(text):
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", file=sys.stderr, flush=True)


STARTED = time.monotonic()


def chunks(items):
    return [items[at : at + CHUNK] for at in range(0, len(items), CHUNK)]


# As they are.


def plain(cases, result):
    for part in chunks(cases):
        expected = [Expected(case) for case in part]
        with tempfile.TemporaryDirectory(prefix="nobat-suite-") as folder:
            folder = pathlib.Path(folder)
            (folder / "models").mkdir()
            for one in expected:
                onnx.save(one.case.model, folder / "models" / f"{one.case.name}.onnx")
            with Server(folder / "models", folder, COMMON) as server:
                say(f"{len(part)} models loaded in {server.loaded_s:.1f} s")
                index = server.settled()
                ask_each(server, index, expected, result)
        say("asked over every protocol")


def ask_each(server, index, expected, result):
    local = threading.local()

    def ask(one):
        if not hasattr(local, "client"):
            local.client = Client(server.http, server.grpc)
        name = one.case.name
        state, reason = index.get(name, (None, "is not in the repository's index"))
        if state != "READY":
            result.load(name, at_load(one, reason), reason)
            return
        for protocol in PROTOCOLS:
            outcome, detail = asked(local.client, protocol, one)
            result.answer(name, protocol, outcome, detail)

    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(ask, one) for one in expected]:
            future.result()


def asked(client, protocol, one):
    datatypes = {name: tensor.datatype for name, tensor in (one.outputs or {}).items()}
    try:
        found = client.infer(protocol, one.case.name, one.case.inputs, datatypes)
    except Refused as refused:
        reason = at_request(one, protocol, refused)
        return (f"refused: {reason}", str(refused)) if reason else ("refused for no reason", str(refused))
    if one.outputs is None:
        return "wrong", f"an answer where onnxruntime has none ({one.error or one.case.skip})"
    return judged(one, protocol, found)


def judged(one, protocol, found):
    outcome = "right"
    if sorted(found) != sorted(one.outputs):
        return "wrong", f"outputs {sorted(found)} instead of {sorted(one.outputs)}"
    for name, expected in one.outputs.items():
        if one.random:
            if (expected.datatype, expected.shape) != (found[name].datatype, found[name].shape):
                return "wrong", f"{name}: another datatype or shape"
            outcome = "right (random values)"
            continue
        said = expected
        if protocol in ("v2-json", "tf-serving"):
            said = without_specials(expected)
            if protocol == "tf-serving" and 0 in expected.shape:
                # Nested lists end at the first empty one.
                said = type(said)(said.datatype, found[name].shape, said.data)
        wrong = difference(said, found[name])
        if wrong:
            return "wrong", f"{name}: {wrong}"
        if said is not expected and not expected.is_finite():
            outcome = "right (null for NaN and infinities)"
    return outcome, ""


# With a symbolic first axis, together.


def batched(cases, result):
    ready = []
    for case in cases:
        if case.skip:
            continue
        for form, made in symbolic.forms(case):
            made.name = f"{case.name}-{form}"
            if prepare(made, result):
                ready.append(made)
    say(f"{len(ready)} models with a symbolic first axis")
    for part in chunks(ready):
        with tempfile.TemporaryDirectory(prefix="nobat-suite-") as folder:
            folder = pathlib.Path(folder)
            (folder / "models").mkdir()
            for case in part:
                onnx.save(case.model, folder / "models" / f"{case.name}.onnx")
            with Server(folder / "models", folder, {**COMMON, **TOGETHER}) as server:
                say(f"{len(part)} models loaded in {server.loaded_s:.1f} s")
                crowd(server, part, result)
        say(f"asked by {CLIENTS} clients at once")


def prepare(case, result):
    try:
        alone = Alone(case.model.SerializeToString())
        if is_random(alone, case.inputs, alone.run(case.inputs)):
            result.count("batched", "left out: random values")
            return False
    except Exception:
        result.count("batched", "left out: onnxruntime does not run it so")
        return False
    case.requests = symbolic.requests(case, alone, CLIENTS)
    if len(case.requests) < 2:
        result.count("batched", "left out: it takes no second request")
        return False
    return True


def crowd(server, cases, result):
    index = server.settled()
    ready = [case for case in cases if index.get(case.name, ("",))[0] == "READY"]
    for case in cases:
        if case not in ready:
            result.batched(case.name, "refused for no reason", index.get(case.name, ("", "not in the index"))[1], 0)
    for case in ready:
        rows = Rows.of(server, case.name)
        result.count("rows", f"{rows.verdict}, {'batched' if rows.batched else 'one request at a time'}")
    together = threading.Barrier(CLIENTS)
    seen = collections.defaultdict(list)

    def one_client(number):
        client = Client(server.http, server.grpc)
        try:
            for case in ready:
                for wave in range(WAVES):
                    inputs, outputs = case.requests[(number + wave * 5) % len(case.requests)]
                    together.wait(timeout=120)
                    protocol = PROTOCOLS[(number + wave) % len(PROTOCOLS)]
                    seen[case.name].append(one_answer(client, protocol, case.name, inputs, outputs))
        except Exception:
            together.abort()
            raise

    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        for future in [pool.submit(one_client, number) for number in range(CLIENTS)]:
            future.result()
    for case in ready:
        outcomes = [outcome for outcome, _, _ in seen[case.name]]
        shared = sum(1 for _, _, shared in seen[case.name] if shared)
        worst = next((bad for bad in ("wrong", "refused") if bad in outcomes), "right")
        if worst == "right" and "close" in outcomes:
            worst = "right (but for the order of additions)"
        detail = next((detail for outcome, detail, _ in seen[case.name] if outcome == worst), "")
        result.batched(case.name, worst, detail, shared, outcomes.count("wrong"), len(outcomes))


def one_answer(client, protocol, model, inputs, outputs):
    own = next(iter(inputs.values())).shape[0]
    if not carries(protocol, [*inputs.values(), *outputs.values()]):
        protocol = "v2-binary"
    try:
        found = client.infer(protocol, model, inputs, {name: tensor.datatype for name, tensor in outputs.items()})
    except Refused as refused:
        return "refused", str(refused), False
    shared = client.rows > own
    exact = True
    for name, expected in outputs.items():
        wrong = difference(expected, found[name], close=1)
        if wrong:
            return "wrong", f"{protocol}: {name}: {wrong}", shared
        exact = exact and not difference(expected, found[name])
    return ("right" if exact else "close"), "", shared


def carries(protocol, tensors):
    """Whether a protocol can say all of these; what it answers where it cannot is the other part's business."""
    if protocol == "v2-json" and any(tensor.datatype in ("FP16", "BF16") for tensor in tensors):
        return False
    json = protocol in ("v2-json", "tf-serving")
    return not json or all(tensor.is_finite() and 0 not in tensor.shape for tensor in tensors)


if __name__ == "__main__":
    sys.exit(main())
