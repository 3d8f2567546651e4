#!/usr/bin/env python3
"""Small models of pictures, one for each task, and one of files: tests/image_models/TASK.

    .nobat/suite/bin/python scripts/make_image_models.py [FOLDER]

Made of onnx and numpy alone, a few KB each. The classifier and the embedder have seeded random weights
and answer the same nonsense everywhere; the others see colours, so that a test can paint what they are to
find: the detector red and green cells, the segmenter red, green and blue pixels, the reader stripes of
these colours as the letters r, g and b. CLIP's two towers see a picture's mean colour and a text's words for colours.
"""

import json
import pathlib
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

HERE = pathlib.Path(__file__).resolve().parent.parent / "tests/image_models"
COLOURS = ["red", "green", "blue"]
# A channel against the mean of the two others.
AGAINST = np.array([[1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1]], np.float32)


class Graph:
    """Nodes and weights, named as they come."""

    def __init__(self, seed=1):
        self.random = np.random.default_rng(seed)
        self.nodes, self.weights = [], []

    def add(self, op, inputs, name=None, **attributes):
        name = name or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(self, values, dtype=np.float32):
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def weight(self, *shape, scale=0.3):
        return self.constant(self.random.normal(0, scale, shape))

    def save(self, folder, inputs, outputs, metadata=None, datatype=TensorProto.FLOAT, name="model.onnx"):
        made = lambda tensor, kind: tensor if len(tensor) == 3 else (*tensor, kind)
        info = lambda kind, tensors: [
            helper.make_tensor_value_info(name, kind, shape) for name, shape, kind in (made(own, kind) for own in tensors)
        ]
        graph = helper.make_graph(
            self.nodes, "pictures", info(datatype, inputs), info(TensorProto.FLOAT, outputs), self.weights
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        helper.set_model_props(model, metadata or {})
        onnx.checker.check_model(model, full_check=True)
        folder.mkdir(parents=True, exist_ok=True)
        onnx.save(model, folder / name)


def write(folder, **files):
    for name, value in files.items():
        name = name.replace("__", ".")
        text = value if isinstance(value, str) else json.dumps(value, indent=1) + "\n"
        (folder / name).write_text(text, encoding="utf-8")


def backbone(graph):
    """Patches of eight pixels, a layer, and their mean: [batch, 16]."""
    x = graph.add("Conv", ["pixel_values", graph.weight(16, 3, 8, 8, scale=0.1)], strides=[8, 8])
    x = graph.add("Conv", [graph.add("Relu", [x]), graph.weight(16, 16, 1, 1)])
    return graph.add("ReduceMean", [graph.add("Relu", [x])], axes=[2, 3], keepdims=0)


def classify(folder):
    graph = Graph()
    x = graph.add("MatMul", [backbone(graph), graph.weight(16, 10, scale=2.0)])
    graph.add("Add", [x, graph.weight(10)], name="logits")
    graph.save(folder, [("pixel_values", ["batch", 3, 32, 32])], [("logits", ["batch", 10])])
    write(
        folder,
        config__json={
            "architectures": ["ViTForImageClassification"],
            "model_type": "vit",
            "id2label": {str(at): f"thing {at}" for at in range(10)},
        },
        preprocessor_config__json={
            "image_processor_type": "ViTImageProcessor",
            "size": {"height": 32, "width": 32},
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "resample": 2,
        },
    )


def embed(folder):
    graph = Graph(2)
    graph.add("Identity", [backbone(graph)], name="image_embeds")
    graph.save(folder, [("pixel_values", ["batch", 3, 24, 24])], [("image_embeds", ["batch", 16])])
    write(
        folder,
        config__json={"architectures": ["CLIPVisionModelWithProjection"], "model_type": "clip_vision_model"},
        preprocessor_config__json={
            "image_processor_type": "CLIPImageProcessor",
            "size": {"shortest_edge": 24},
            "crop_size": {"height": 24, "width": 24},
        },
    )


def detect(folder):
    """YOLOv8's layout: a box of each of 16 cells that is red or green."""
    graph = Graph()
    cells = graph.add("AveragePool", ["images"], kernel_shape=[16, 16], strides=[16, 16])
    cells = graph.add("Reshape", [cells, graph.constant([0, 3, 16], np.int64)])
    scores = graph.add("MatMul", [graph.constant(AGAINST[:2]), cells])
    scores = graph.add("Clip", [scores, graph.constant(0.0), graph.constant(1.0)])
    centres = np.arange(16)
    boxes = np.stack([centres % 4 * 16 + 8, centres // 4 * 16 + 8, np.full(16, 16), np.full(16, 16)])
    # As many as there are rows: zeros of the batch, and the boxes.
    zero = graph.add("Mul", [graph.add("ReduceMean", [cells], axes=[1, 2], keepdims=1), graph.constant(0.0)])
    boxes = graph.add("Add", [zero, graph.constant(boxes[None])])
    graph.add("Concat", [boxes, scores], name="output0", axis=1)
    names = {at: colour for at, colour in enumerate(COLOURS[:2])}
    graph.save(
        folder,
        [("images", ["batch", 3, 64, 64])],
        [("output0", ["batch", 6, 16])],
        {"task": "detect", "stride": "16", "imgsz": "[64, 64]", "names": str(names)},
    )
    write(folder, model__toml="[image]\n")


def segment(folder):
    graph = Graph()
    x = graph.add("AveragePool", ["pixel_values"], kernel_shape=[4, 4], strides=[4, 4])
    graph.add("Conv", [x, graph.constant(AGAINST.reshape(3, 3, 1, 1))], name="logits")
    graph.save(folder, [("pixel_values", ["batch", 3, 64, 64])], [("logits", ["batch", 3, 16, 16])])
    write(
        folder,
        config__json={
            "architectures": ["SegformerForSemanticSegmentation"],
            "model_type": "segformer",
            "id2label": {str(at): colour for at, colour in enumerate(COLOURS)},
        },
        preprocessor_config__json={
            "image_processor_type": "SegformerImageProcessor",
            "size": {"height": 64, "width": 64},
            "do_normalize": False,
        },
    )


def read(folder):
    """A step for each four columns: a colour is a letter, black is the blank."""
    graph = Graph()
    steps = graph.add("AveragePool", ["x"], kernel_shape=[16, 4], strides=[16, 4])
    steps = graph.add("Transpose", [graph.add("Squeeze", [steps, graph.constant([2], np.int64)])], perm=[0, 2, 1])
    weights = np.concatenate([np.zeros((3, 1), np.float32), AGAINST.T * 12], axis=1)
    logits = graph.add("MatMul", [steps, graph.constant(weights)])
    logits = graph.add("Add", [logits, graph.constant([3.0, 0, 0, 0])])
    graph.add("Softmax", [logits], name="softmax", axis=-1)
    graph.save(
        folder,
        [("x", ["batch", 3, 16, "width"])],
        [("softmax", ["batch", "steps", 4])],
        {"character": "r\ng\nb"},
    )
    write(folder, model__toml='[image]\nrescale = 0.00392156862745098\nchannels = "rgb"\n')


def bytes_of_files(folder):
    """Scores that a test can tell: the first byte, the last one, and the share of padding."""
    graph = Graph()
    numbers = graph.add("Cast", ["bytes"], to=TensorProto.FLOAT)
    one = lambda at: graph.add("Gather", [numbers, graph.constant([at], np.int64)], axis=1)
    ends = [graph.add("Div", [one(at), graph.constant(256.0)]) for at in [0, 15]]
    padding = graph.add("Cast", [graph.add("Equal", ["bytes", graph.constant(256, np.int32)])], to=TensorProto.FLOAT)
    padding = graph.add("ReduceMean", [padding], axes=[1], keepdims=1)
    graph.add("Concat", [*ends, padding], name="target_label", axis=1)
    graph.save(folder, [("bytes", ["batch", 16])], [("target_label", ["batch", 3])], datatype=TensorProto.INT32)
    config = {
        "beg_size": 8, "mid_size": 0, "end_size": 8, "use_inputs_at_offsets": False, "padding_token": 256,
        "block_size": 32, "min_file_size_for_dl": 4, "medium_confidence_threshold": 0.5,
        "target_labels_space": ["first", "last", "short"], "thresholds": {"first": 0.75}, "overwrite_map": {},
    }
    types = {"first": {"is_text": True}, "last": {"is_text": False}, "short": {"is_text": False}}
    write(folder, model__toml="[bytes]\n", config__min__json=config, content_types_kb__min__json=types)


def normalized(graph, x, name):
    length = graph.add("ReduceL2", [x], axes=[1], keepdims=1)
    return graph.add("Div", [x, graph.add("Max", [length, graph.constant(1e-6)])], name=name)


WORDS = ["<pad>", "<|startoftext|>", "<|endoftext|>", "<unk>", "a", "an", "is", "of", "photo", "picture", "this", ".", *COLOURS]


def pictures_of_clip(graph):
    return graph.add("ReduceMean", ["pixel_values"], axes=[2, 3], keepdims=0)


def texts_of_clip(graph):
    # What a word weighs in each colour: padding that counted would show as white.
    table = np.zeros((len(WORDS), 3), np.float32)
    table[0] = 1
    table[-3:] = np.eye(3)
    words = graph.add("Gather", [graph.constant(table), "input_ids"])
    mask = graph.add("Unsqueeze", [graph.add("Cast", ["attention_mask"], to=TensorProto.FLOAT), graph.constant([2], np.int64)])
    return words, graph.add("ReduceSum", [graph.add("Mul", [words, mask]), graph.constant([1], np.int64)], keepdims=0)


def clip_apart(folder):
    """The towers of clip in a file each, as many folders of the hub have them: vectors keep their lengths, and both
    files have an output of one name."""
    text = ["text_batch_size", "sequence_length"]
    inputs = [("input_ids", text, TensorProto.INT64), ("attention_mask", text, TensorProto.INT64)]
    graph = Graph()
    words, texts = texts_of_clip(graph)
    graph.add("Identity", [texts], name="text_embeds")
    graph.add("Identity", [words], name="last_hidden_state")
    outputs = [("text_embeds", ["text_batch_size", 3]), ("last_hidden_state", [*text, 3])]
    graph.save(folder / "onnx", inputs, outputs, name="text_model.onnx")
    graph = Graph()
    graph.add("Identity", [pictures_of_clip(graph)], name="image_embeds")
    graph.add("Flatten", ["pixel_values"], name="last_hidden_state")
    pictures = [("pixel_values", ["image_batch_size", 3, 24, 24])]
    outputs = [("image_embeds", ["image_batch_size", 3]), ("last_hidden_state", ["image_batch_size", 3 * 24 * 24])]
    graph.save(folder / "onnx", pictures, outputs, name="vision_model.onnx")
    folder_of_clip(folder)


def clip(folder):
    """Both towers in one graph, as optimum exports CLIP: rows of texts and of pictures are axes of their own."""
    graph = Graph()
    pictures = normalized(graph, pictures_of_clip(graph), "image_embeds")
    texts = normalized(graph, texts_of_clip(graph)[1], "text_embeds")
    alike = graph.add("MatMul", [pictures, graph.add("Transpose", [texts], perm=[1, 0])])
    graph.add("Mul", [alike, graph.constant(10.0)], name="logits_per_image")
    graph.add("Transpose", ["logits_per_image"], perm=[1, 0], name="logits_per_text")
    text = ["text_batch_size", "sequence_length"]
    inputs = [
        ("input_ids", text, TensorProto.INT64),
        ("pixel_values", ["image_batch_size", 3, 24, 24]),
        ("attention_mask", text, TensorProto.INT64),
    ]
    outputs = [
        ("logits_per_image", ["image_batch_size", "text_batch_size"]),
        ("logits_per_text", ["text_batch_size", "image_batch_size"]),
        ("text_embeds", ["text_batch_size", 3]),
        ("image_embeds", ["image_batch_size", 3]),
    ]
    graph.save(folder, inputs, outputs)
    folder_of_clip(folder)


def folder_of_clip(folder):
    special = lambda token: {
        "id": WORDS.index(token), "content": token, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True,
    }
    frame = lambda token: {"id": token, "ids": [WORDS.index(token)], "tokens": [token]}
    start, end = "<|startoftext|>", "<|endoftext|>"
    part = lambda kind, name, of: {kind: {"id": name, "type_id": of}}
    single = [part("SpecialToken", start, 0), part("Sequence", "A", 0), part("SpecialToken", end, 0)]
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": [special(token) for token in WORDS[:4]],
        "normalizer": {"type": "Lowercase"}, "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": {
            "type": "TemplateProcessing", "single": single,
            "pair": [*single, part("Sequence", "B", 0), part("SpecialToken", end, 0)],
            "special_tokens": {start: frame(start), end: frame(end)},
        },
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": {word: at for at, word in enumerate(WORDS)}, "unk_token": "<unk>"},
    }
    write(
        folder,
        config__json={
            "architectures": ["CLIPModel"], "model_type": "clip", "projection_dim": 3,
            "text_config": {"vocab_size": len(WORDS), "max_position_embeddings": 16, "pad_token_id": 0},
        },
        preprocessor_config__json={
            "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 24},
            "crop_size": {"height": 24, "width": 24}, "do_normalize": False,
        },
        tokenizer__json=tokenizer,
        tokenizer_config__json={"tokenizer_class": "CLIPTokenizer", "model_max_length": 16, "pad_token": "<pad>"},
    )


def main():
    folder = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    for make in [classify, embed, detect, segment, read, clip, clip_apart]:
        make(folder / make.__name__)
    bytes_of_files(folder / "bytes")


if __name__ == "__main__":
    main()
