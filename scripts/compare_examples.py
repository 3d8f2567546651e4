#!/usr/bin/env python3
"""The examples `magika` and `captcha` beside their own Python packages; see scripts/compare_examples."""

import bz2
import csv
import gzip
import io
import json
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import wave
import zipfile
import zlib

import onnxruntime

onnxruntime.set_default_logger_severity(3)
import ddddocr
from magika import Magika
from magika.types import Seekable
from PIL import Image, ImageDraw, ImageFont

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "crates/nobat-image/tests/magika_numbers.json"
EXAMPLES = pathlib.Path(os.environ.get("NOBAT_EXAMPLES", ROOT / ".nobat/examples"))
FILES, CAPTCHAS = 50, 30
LETTERS = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"


def picture(kind, rng):
    out = io.BytesIO()
    image = Image.effect_noise((rng.randrange(20, 90), 40), 60).convert("RGB")
    image.save(out, kind)
    return out.getvalue()


def archive(kind, rng):
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w") as into:
            into.writestr("a.txt", rng.randbytes(500))
    else:
        with tarfile.open(fileobj=out, mode="w") as into:
            entry = tarfile.TarInfo("a.txt")
            entry.size = 500
            into.addfile(entry, io.BytesIO(rng.randbytes(500)))
    return out.getvalue()


def sound(rng):
    out = io.BytesIO()
    with wave.open(out, "wb") as into:
        into.setparams((1, 2, 8000, 0, "NONE", ""))
        into.writeframes(rng.randbytes(2000))
    return out.getvalue()


def table(rng):
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(["id", "name", "price"])
    rows.writerows([at, rng.choice(["tea", "salt", "rice"]), rng.random()] for at in range(80))
    return out.getvalue().encode()


def made_files():
    """Files of many kinds: of this tree, encoded, random, short, empty, of spaces."""
    rng = random.Random(5)
    rust = (ROOT / "crates/nobat-image/src/lib.rs").read_bytes()
    own = ["README.md", "Cargo.toml", "Cargo.lock", "justfile", "clippy.toml", "scripts/compare_examples.py",
           "scripts/fetch_examples", "crates/nobat-core/src/task.rs", "examples/yolo/model.toml",
           "tests/image_models/read/model.onnx", "tests/image_models/classify/config.json",
           "tests/image_golden/0000_jpeg.jpg", "tests/image_golden/0016_gif.gif", "LICENSE"]
    files = [(ROOT / name).read_bytes() for name in own]
    files += [picture(kind, rng) for kind in ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PDF", "ICO"]]
    files += [archive("zip", rng), archive("tar", rng), sound(rng), table(rng)]
    files += [gzip.compress(rust), bz2.compress(rust), zlib.compress(rust)]
    files += [b"", b"a", b"abcdefg", b"abcdefgh", b"\xff\xfe\x00", b" " * 5000, b"\n\t " * 3 + b"abc", "späße".encode()]
    files += [b" " * 4090 + "äöü".encode() * 20, b"\x0b\x0c" + rust[:1000] + b"\x0b\x0c", rust[:1023], rust[:1024] + b" ", rust * 3]
    files += [json.dumps({"a": [rng.random() for _ in range(200)]}).encode(), b"<!doctype html><html><body>hi</body></html>"]
    files += [b"SELECT name FROM things WHERE id = 7;\n", b"#include <stdio.h>\nint main(void) { return 0; }\n"]
    files += [struct.pack("<4000I", *range(4000)), b"\x7fELF" + rng.randbytes(3000)]
    while len(files) < FILES:
        files.append(rng.randbytes(rng.choice([40, 900, 2048, 5000, 9000])))
    return files[:FILES]


def golden():
    """What magika's Python gives its graph of short files, with small sizes."""
    rng = random.Random(9)
    rows = []
    for at in range(60):
        words = [rng.choice([b" ", b"\n", b"\t", b"\r", b"\x0b", b"\x0c", b"\x00", b"\xff", b"ab", b"z", b"\xa0", b"\x85"]) for _ in range(at)]
        file = b"".join(words)
        got = Magika._extract_features_from_seekable(
            Seekable(io.BytesIO(file)), beg_size=16, mid_size=0, end_size=12, padding_token=256, block_size=32,
            use_inputs_at_offsets=False,
        )
        rows.append([file.hex(), None if got.beg[7] == 256 else got.beg + got.end])
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    GOLDEN.write_text(f"[\n{lines}\n]\n")
    print(f"{len(rows)} files written to {GOLDEN.relative_to(ROOT)}")


def captchas():
    """Letters of several sizes and colours, crossed by lines."""
    rng = random.Random(7)
    for at in range(CAPTCHAS):
        text = "k7mX" if at == 0 else "".join(rng.choice(LETTERS) for _ in range(4))
        size = (160, 60) if at == 0 else (rng.randrange(120, 240), rng.randrange(36, 80))
        image = Image.new("RGB", size, (245, 245, 240))
        draw = ImageDraw.Draw(image)
        colour = tuple(rng.randrange(0, 200) for _ in range(3))
        draw.text((12, size[1] // 10), text, fill=colour, font=ImageFont.load_default(size=size[1] * 0.7))
        for _ in range(rng.randrange(0, 4)):
            ends = [rng.randrange(side) for side in size * 2]
            draw.line(ends, fill=tuple(rng.randrange(256) for _ in range(3)))
        out = io.BytesIO()
        image.save(out, "PNG")
        yield out.getvalue()


def predict(url, model, body, kind):
    asked = urllib.request.Request(f"{url}/api/v1/predict/{model}?wait=30", body, {"content-type": kind})
    with urllib.request.urlopen(asked, timeout=60) as answer:
        return json.load(answer)["predictions"][0]


def serve(work):
    """A server of the two models, and its address."""
    models = work / "models"
    models.mkdir()
    for name in ["magika", "captcha"]:
        folder = EXAMPLES / name
        if not folder.is_dir():
            raise SystemExit(f"compare_examples: there is no {folder}; run scripts/fetch_examples")
        (models / name).symlink_to(folder.resolve())
    command = [os.environ["NOBAT_BIN"], "serve", "--models", models, "--data", work / "data", "--listen", "127.0.0.1:0", "--grpc", "", "--metrics", ""]
    with open(work / "welcome", "wb") as out, open(work / "log", "wb") as log:
        server = subprocess.Popen(command, stdout=out, stderr=log, env={**os.environ, "NOBAT_LOG_DIR": str(work)})
    for _ in range(600):
        found = re.search(r"^  http  *(\S+)", (work / "welcome").read_text(), re.M)
        if found:
            return server, found[1]
        if server.poll() is not None:
            break
        time.sleep(0.1)
    server.kill()
    raise SystemExit("compare_examples: the server did not start\n" + (work / "log").read_text())


def compare(url):
    magika, reader = Magika(), ddddocr.DdddOcr(show_ad=False)
    differ = []
    files = made_files()
    kinds = set()
    for at, file in enumerate(files):
        wanted = magika.identify_bytes(file).prediction
        got = predict(url, "magika", file, "application/octet-stream")
        kinds.add(got["label"])
        best = got["top"][0]["label"]
        if got["label"] != str(wanted.output.label) or abs(got["score"] - wanted.score) > 1e-4:
            differ.append(f"file {at}: {got['label']} {got['score']}, not {wanted.output.label} {wanted.score}")
        if str(wanted.dl.label) not in ("undefined", best):
            differ.append(f"file {at}: the graph's best is {best}, not {wanted.dl.label}")
    print(f"magika: {len(files)} files of {len(kinds)} kinds, {len(differ)} differ")
    read = [(reader.classification(image), predict(url, "captcha", image, "image/png")["text"]) for image in captchas()]
    wrong = [f"captcha {at}: `{got}`, not `{wanted}`" for at, (wanted, got) in enumerate(read) if got != wanted]
    print(f"captcha: {len(read)} pictures, {len(wrong)} differ")
    return differ + wrong


def main():
    if sys.argv[1:] == ["--golden"]:
        return golden()
    with tempfile.TemporaryDirectory() as work:
        server, url = serve(pathlib.Path(work))
        try:
            differ = compare(url)
        finally:
            server.terminate()
            server.wait()
    if differ:
        raise SystemExit("\n".join(differ))


if __name__ == "__main__":
    main()
