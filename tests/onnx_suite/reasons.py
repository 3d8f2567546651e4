"""Whether what a refusal says is so: each reason by a look at the case itself.

A refusal that none of these recognises is a failure of the suite, not a gap.
"""

import re


def at_load(one, reason):
    """Why a model was not loaded, in a word; None when that is not so."""
    skip, text = one.case.skip, reason.lower()
    if skip.startswith(("sequence", "map")) and "is a sequence or map, not a tensor" in text:
        return "a sequence or map"
    if skip.startswith("optional") and "onnx type optional" in text:
        return "optional typed"
    if skip.startswith("datatype") and ("cannot carry" in text or one.error):
        return skip
    if (skip.startswith("datatype") or one.error) and same_error(one.error, reason):
        return "onnxruntime does not open it"
    return None


# What onnxruntime says of itself differs between its languages by paths and prefixes.
def same_error(error, reason):
    words = lambda text: set(re.findall(r"[a-z]{4,}", text.lower())) - {"model", "onnx", "onnxruntime", "test", "node"}
    return len(words(error) & words(reason)) >= 2 or not error


def at_request(one, protocol, refused):
    """Why a request was refused, in a word; None when that is not so."""
    inputs, message = one.case.inputs, refused.message
    json = protocol in ("v2-json", "tf-serving")
    if one.outputs is None:
        return "onnxruntime does not run it" if same_error(one.error, message) else None
    halves = [
        tensor for tensor in [*inputs.values(), *one.outputs.values()] if tensor.datatype in ("FP16", "BF16")
    ]
    if protocol == "v2-json" and halves and re.search("FP16|BF16", message):
        return "FP16 and BF16 do not travel as v2 JSON"
    if json and not all(tensor.is_finite() for tensor in inputs.values()) and re.search("NaN|Infinity", message):
        return "JSON has no NaN and no infinities"
    if "the batch is empty" in message and any(tensor.shape[:1] == (0,) for tensor in inputs.values()):
        return "no rows"
    found = re.search(r"input `(.+?)` has shape \[(.*?)\]", message)
    if found and found[1] in inputs:
        tensor, declared = inputs[found[1]], one.declared.get(found[1])
        if protocol == "tf-serving" and 0 in tensor.shape:
            return "nested lists cannot say the shape of an empty tensor"
        fits = declared is not None and len(declared) == len(tensor.shape) and all(
            not isinstance(want, int) or want == have for want, have in zip(declared, tensor.shape)
        )
        if not fits:
            return "the case's shape is not the one that its model declares"
    return None
