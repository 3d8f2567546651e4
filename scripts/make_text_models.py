#!/usr/bin/env python3
"""Small Hugging Face folders, one for each text task: tests/text_models/TASK.

    .nobat/suite/bin/python scripts/make_text_models.py [FOLDER]

Each is a transformer of one layer with seeded random weights, 12 to 20 KB, made of onnx and numpy
alone. They answer nonsense, the same nonsense everywhere: what a test needs of the files, the
inputs and the shapes of real models is there, their knowledge is not.
"""

import json
import pathlib
import struct
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).resolve().parent.parent / "tests/text_models"
HIDDEN, HEADS, POSITIONS = 16, 2, 64
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = "the a of to in is was it on for with he she new york london city river war peace good bad"
VOCABULARY = (
    SPECIAL
    + list("abcdefghijklmnopqrstuvwxyz0123456789.,!?'-")
    + ["##" + letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789"]
    + [word for word in WORDS.split() if len(word) > 1]
)


class Graph:
    """Nodes and weights, named as they come."""

    def __init__(self, seed):
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights = [], []

    def add(self, op, inputs, **attributes):
        name = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, values, dtype=np.float32):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(self, *shape, scale=0.3):
        return self.constant(self.random.normal(0, scale, shape))

    def linear(self, x, inputs, outputs):
        return self.add("Add", [self.add("MatMul", [x, self.weight(inputs, outputs)]), self.weight(outputs, scale=0.1)])

    def norm(self, x):
        return self.add("LayerNormalization", [x, self.constant(np.ones(HIDDEN)), self.constant(np.zeros(HIDDEN))], axis=-1)


def transformer(graph):
    """input_ids, attention_mask and token_type_ids to a vector for each token."""
    words = graph.add("Gather", [graph.weight(len(VOCABULARY), HIDDEN, scale=0.5), "input_ids"])
    types = graph.add("Gather", [graph.weight(2, HIDDEN), "token_type_ids"])
    length = graph.add("Gather", [graph.add("Shape", ["input_ids"]), graph.constant(1, np.int64)], axis=0)
    length = graph.add("Reshape", [length, graph.constant([1], np.int64)])
    places = graph.add("Slice", [graph.weight(POSITIONS, HIDDEN), graph.constant([0], np.int64), length])
    x = graph.norm(graph.add("Add", [graph.add("Add", [words, types]), places]))

    def heads(y):
        split = graph.add("Reshape", [y, graph.constant([0, 0, HEADS, HIDDEN // HEADS], np.int64)])
        return graph.add("Transpose", [split], perm=[0, 2, 1, 3])

    query, key, value = (heads(graph.linear(x, HIDDEN, HIDDEN)) for _ in range(3))
    scores = graph.add("MatMul", [query, graph.add("Transpose", [key], perm=[0, 1, 3, 2])])
    scores = graph.add("Div", [scores, graph.constant((HIDDEN / HEADS) ** 0.5)])
    seen = graph.add("Unsqueeze", [graph.add("Cast", ["attention_mask"], to=TensorProto.FLOAT), graph.constant([1, 2], np.int64)])
    unseen = graph.add("Mul", [graph.add("Sub", [graph.constant(1.0), seen]), graph.constant(-1e9)])
    attention = graph.add("Softmax", [graph.add("Add", [scores, unseen])], axis=-1)
    mixed = graph.add("Transpose", [graph.add("MatMul", [attention, value])], perm=[0, 2, 1, 3])
    mixed = graph.add("Reshape", [mixed, graph.constant([0, 0, HIDDEN], np.int64)])
    x = graph.norm(graph.add("Add", [x, graph.linear(mixed, HIDDEN, HIDDEN)]))
    wide = graph.linear(x, HIDDEN, 2 * HIDDEN)
    erf = graph.add("Erf", [graph.add("Div", [wide, graph.constant(2**0.5)])])
    gelu = graph.add("Mul", [graph.add("Mul", [wide, graph.add("Add", [erf, graph.constant(1.0)])]), graph.constant(0.5)])
    return graph.norm(graph.add("Add", [x, graph.linear(gelu, 2 * HIDDEN, HIDDEN)]))


def model(seed, head):
    """The graph of a task: `head` is None for the tokens' vectors, else (classes, of each token)."""
    graph = Graph(seed)
    x = transformer(graph)
    if head is None:
        name, axes = "last_hidden_state", ["batch", "tokens", HIDDEN]
    else:
        classes, each_token = head
        name, axes = "logits", ["batch", "tokens", classes] if each_token else ["batch", classes]
        if not each_token:
            x = graph.add("Gather", [x, graph.constant(0, np.int64)], axis=1)
        x = graph.linear(x, HIDDEN, classes)
    graph.nodes.append(helper.make_node("Identity", [x], [name]))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, axes)]
    made = helper.make_model(
        helper.make_graph(graph.nodes, "text", inputs, outputs, graph.weights),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
        producer_name="make_text_models",
    )
    onnx.checker.check_model(made)
    return made


def tokenizer():
    ids = {token: at for at, token in enumerate(VOCABULARY)}
    added = [
        {"id": ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for token in SPECIAL
    ]
    special = {token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in ("[CLS]", "[SEP]")}

    def part(kind, name, type_id):
        return {kind: {"id": name, "type_id": type_id}}

    cls, sep = part("SpecialToken", "[CLS]", 0), part("SpecialToken", "[SEP]", 0)
    single = [cls, part("Sequence", "A", 0), sep]
    return {
        "version": "1.0",
        # Settings of the day it was trained, which do not hold when it is served.
        "truncation": {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": {"Fixed": 8}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": added,
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": single + [part("Sequence", "B", 1), part("SpecialToken", "[SEP]", 1)],
            "special_tokens": special,
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": ids},
    }


def safetensors(tensors):
    """The format: a length, a JSON header, the tensors' bytes."""
    header, data = {}, b""
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def write(folder, name, contents):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(contents, bytes):
        path.write_bytes(contents)
    else:
        path.write_text(json.dumps(contents, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def folder(root, name, seed, architecture, head=None, labels=None, **config):
    here = root / name
    base = {"architectures": [architecture], "model_type": "bert", "hidden_size": HIDDEN, "vocab_size": len(VOCABULARY)}
    base |= {"max_position_embeddings": POSITIONS, "pad_token_id": 0, "num_attention_heads": HEADS, "num_hidden_layers": 1}
    if labels:
        base["id2label"] = {str(at): label for at, label in enumerate(labels)}
        base["label2id"] = {label: at for at, label in enumerate(labels)}
    write(here, "config.json", base | config)
    write(here, "tokenizer.json", tokenizer())
    names = {f"{token[1:-1].lower()}_token": token for token in SPECIAL}
    write(here, "tokenizer_config.json", {"model_max_length": 1000000000000000019884624838656, "tokenizer_class": "PreTrainedTokenizerFast"} | names)
    write(here, "onnx/model.onnx", model(seed, head).SerializeToString())
    return here


def sentence_transformer(here, *modules):
    classes = {"Transformer": "models", "Pooling": "models", "Dense": "models", "Normalize": "models", "SpladePooling": "sparse_encoder.models", "MLMTransformer": "sparse_encoder.models"}
    listed = []
    for at, (name, config) in enumerate(modules):
        path = "" if at == 0 else f"{at}_{name}"
        listed.append({"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.{classes[name]}.{name}"})
        if at > 0 and config is not None:
            write(here, f"{path}/config.json", config)
    write(here, "modules.json", listed)


def main(root):
    embed = folder(root, "embed", 1, "BertModel")
    pooling = {"word_embedding_dimension": HIDDEN, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    dense = {"in_features": HIDDEN, "out_features": 8, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh"}
    sentence_transformer(embed, ("Transformer", None), ("Pooling", pooling), ("Dense", dense), ("Normalize", {}))
    write(embed, "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    write(embed, "config_sentence_transformers.json", {"prompts": {"query": "query: ", "passage": "passage: "}, "default_prompt_name": None})
    random = np.random.default_rng(11)
    weights = {"linear.bias": random.normal(0, 0.1, 8).astype("<f4"), "linear.weight": random.normal(0, 0.4, (8, HIDDEN)).astype("<f4")}
    write(embed, "2_Dense/model.safetensors", safetensors(weights))

    kind = "BertForSequenceClassification"
    folder(root, "classify", 2, kind, (3, False), ["negative", "neutral", "positive"], problem_type="single_label_classification")
    folder(root, "rerank", 3, kind, (1, False), ["LABEL_0"])
    folder(root, "zero_shot", 4, kind, (3, False), ["contradiction", "neutral", "entailment"])
    folder(root, "tokens", 5, "BertForTokenClassification", (5, True), ["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
    folder(root, "fill_mask", 6, "BertForMaskedLM", (len(VOCABULARY), True))
    sparse = folder(root, "sparse", 7, "BertForMaskedLM", (len(VOCABULARY), True))
    splade = {"pooling_strategy": "max", "activation_function": "relu", "word_embedding_dimension": len(VOCABULARY)}
    sentence_transformer(sparse, ("MLMTransformer", None), ("SpladePooling", splade))
    for path in sorted(root.iterdir()):
        print(f"{path.name:10} {sum(file.stat().st_size for file in path.rglob('*') if file.is_file()):7} bytes")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE)
