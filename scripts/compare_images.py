#!/usr/bin/env python3
"""nobat-image against Pillow and transformers' image processors, on made-up pictures.

    scripts/image_parity [--pictures 200] [--only ViT,CLIP] [--keep FOLDER]
    scripts/image_parity --golden      writes tests/image_golden anew

Paints pictures of many sizes, formats, colour modes and EXIF orientations, prepares each by the
reference (Pillow, upright, RGB, then the class's processor) and by nobat-image, and compares the
session's inputs: before normalisation they must differ by at most 1/255 a pixel in the mean, and a
vision transformer of random weights must give both the same label, or one that it finds as good.
"""

import argparse
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import warnings

os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageDraw, ImageFilter, ImageOps

warnings.filterwarnings("ignore")
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
DRIVER = ROOT / "target/debug/examples/image_tensors"
GOLDEN = ROOT / "tests/image_golden"
STEP = 1 / 255
LABELS = 1000

# By class: the sides of the tensor (0: open) and files' fields beside the class's own.
CLASSES = {
    "ViT": ((224, 224), {}),
    "DeiT": ((224, 224), {}),
    "Siglip": ((384, 384), {"size": {"height": 384, "width": 384}}),
    "CLIP": ((224, 224), {}),
    "Bit": ((224, 224), {"resample": 1}),
    "Beit": ((224, 224), {"do_center_crop": True, "size": {"height": 256, "width": 256}}),
    "ConvNext": ((224, 224), {"size": {"shortest_edge": 224}, "crop_pct": 0.875}),
    "EfficientNet": ((224, 224), {"size": {"height": 224, "width": 224}, "rescale_offset": True, "rescale_factor": 1 / 127.5}),
    "MobileNetV1": ((224, 224), {}),
    "MobileNetV2": ((192, 192), {"size": 224, "crop_size": 192}),
    "MobileViT": ((256, 256), {"size": 288}),
    "Segformer": ((512, 512), {}),
    "RTDetr": ((640, 640), {}),
    "Detr": ((0, 0), {"size": {"shortest_edge": 200, "longest_edge": 333}}),
    "Yolos": ((0, 0), {"size": {"shortest_edge": 160, "longest_edge": 256}}),
}


def painted(random, width, height):
    """A picture as a photo has it: soft slopes, edges, grain."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(width, height)
    waves = [np.sin(x * random.uniform(-9, 9) + y * random.uniform(-9, 9) + random.uniform(0, 6)) for _ in range(3)]
    pixels = np.stack([128 + 90 * wave + random.normal(0, random.uniform(0, 12), wave.shape) for wave in waves], -1)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    for _ in range(random.integers(2, 9)):
        x0, y0 = random.integers(0, width), random.integers(0, height)
        x1, y1 = x0 + random.integers(1, width + 1), y0 + random.integers(1, height + 1)
        fill = tuple(int(value) for value in random.integers(0, 256, 3))
        [draw.rectangle, draw.ellipse][random.integers(0, 2)]([x0, y0, x1, y1], fill=fill)
        draw.line([x0, y1, x1, y0], fill=fill[::-1], width=int(random.integers(1, 5)))
    return image.filter(ImageFilter.GaussianBlur(0.6)) if random.random() < 0.5 else image


def encode(image, name, extension, **options):
    buffer = io.BytesIO()
    image.save(buffer, **options)
    return f"{name}.{extension}", buffer.getvalue()


def pictures(count, seed=7, largest=1200):
    """Names and encoded bytes, in many formats."""
    random = np.random.default_rng(seed)
    kinds = [jpeg, jpeg, jpeg, jpeg, oriented, oriented, oriented, grey_jpeg, cmyk_jpeg, png, png_alpha, png_palette,
             png_grey, png_16, webp, webp_lossless, gif, bmp, tiff, tiff_lzw]
    for at in range(count):
        width, height = (int(np.exp(random.uniform(np.log(24), np.log(largest)))) for _ in range(2))
        kind = kinds[at % len(kinds)]
        yield kind(painted(random, width, height), random, f"{at:04}_{kind.__name__}")


def jpeg(image, random, name):
    return encode(image, name, "jpg", format="JPEG", quality=int(random.integers(70, 97)),
                  subsampling=int(random.integers(0, 3)), progressive=bool(random.integers(0, 2)))


def oriented(image, random, name):
    exif = Image.Exif()
    exif[0x0112] = int(random.integers(1, 9))
    return encode(image, name, "jpg", format="JPEG", quality=90, exif=exif)


def grey_jpeg(image, random, name):
    return encode(image.convert("L"), name, "jpg", format="JPEG", quality=90)


def cmyk_jpeg(image, random, name):
    return encode(image.convert("CMYK"), name, "jpg", format="JPEG", quality=90)


def png(image, random, name):
    return encode(image, name, "png", format="PNG")


def png_alpha(image, random, name):
    image = image.convert("RGBA")
    alpha = np.asarray(painted(random, *image.size))[..., 0]
    image.putalpha(Image.fromarray(alpha))
    return encode(image, name, "png", format="PNG")


def png_palette(image, random, name):
    return encode(image.convert("P", palette=Image.Palette.ADAPTIVE), name, "png", format="PNG")


def png_grey(image, random, name):
    return encode(image.convert("LA" if random.random() < 0.5 else "L"), name, "png", format="PNG")


def png_16(image, random, name):
    grey = np.asarray(image.convert("L")).astype(np.uint16) * 2
    return encode(Image.fromarray(grey), name, "png", format="PNG")


def webp(image, random, name):
    return encode(image, name, "webp", format="WEBP", quality=85)


def webp_lossless(image, random, name):
    return encode(image, name, "webp", format="WEBP", lossless=True)


def gif(image, random, name):
    more = [ImageOps.invert(image).convert("P", palette=Image.Palette.ADAPTIVE)]
    return encode(image.convert("P", palette=Image.Palette.ADAPTIVE), name, "gif", format="GIF", save_all=True, append_images=more)


def bmp(image, random, name):
    return encode(image, name, "bmp", format="BMP")


def tiff(image, random, name):
    return encode(image, name, "tif", format="TIFF")


def tiff_lzw(image, random, name):
    return encode(image, name, "tif", format="TIFF", compression="tiff_lzw")


# ---- the reference ----------------------------------------------------------------------------------


def upright(data):
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")


def processor_of(name, fields):
    return getattr(transformers, f"{name}ImageProcessorPil")(**fields)


def vit(side, seed=3):
    """A vision transformer of two layers with random weights, on pictures of these sides."""
    random, nodes, weights = np.random.default_rng(seed), [], []
    width, patch, heads = 64, 16, 4

    def add(op, inputs, **attributes):
        name = f"t{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def constant(values, dtype=np.float32):
        weights.append(numpy_helper.from_array(np.asarray(values, dtype), f"w{len(weights)}"))
        return weights[-1].name

    def weight(*shape, scale):
        return constant(random.normal(0, scale, shape))

    def norm(x):
        return add("LayerNormalization", [x, constant(np.ones(width)), constant(np.zeros(width))], axis=-1)

    def split(x):
        return add("Transpose", [add("Reshape", [x, constant([0, 0, heads, width // heads], np.int64)])], perm=[0, 2, 1, 3])

    x = add("Conv", ["pixel_values", weight(width, 3, patch, patch, scale=0.05)], strides=[patch, patch])
    x = add("Transpose", [add("Reshape", [x, constant([0, width, -1], np.int64)])], perm=[0, 2, 1])
    x = add("Add", [x, weight(1, (side // patch) ** 2, width, scale=0.2)])
    for _ in range(2):
        y = norm(x)
        query, key, value = (split(add("MatMul", [y, weight(width, width, scale=0.2)])) for _ in range(3))
        scores = add("MatMul", [query, add("Transpose", [key], perm=[0, 1, 3, 2])])
        scores = add("Softmax", [add("Mul", [scores, constant(0.25)])], axis=-1)
        y = add("Transpose", [add("MatMul", [scores, value])], perm=[0, 2, 1, 3])
        x = add("Add", [x, add("Reshape", [y, constant([0, 0, width], np.int64)])])
        y = add("Relu", [add("MatMul", [norm(x), weight(width, 2 * width, scale=0.2)])])
        x = add("Add", [x, add("MatMul", [y, weight(2 * width, width, scale=0.2)])])
    x = add("ReduceMean", [norm(x)], axes=[1], keepdims=0)
    nodes.append(helper.make_node("MatMul", [x, weight(width, LABELS, scale=1.0)], ["logits"]))
    graph = helper.make_graph(
        nodes, "vit",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, side, side])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", LABELS])], weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


# ---- the comparison ---------------------------------------------------------------------------------


def prepared(folder, sides, pictures, name, fields):
    """What nobat-image makes of the pictures: tensors by file name."""
    model, out = folder / name, folder / f"{name}.out"
    model.mkdir()
    out.mkdir()
    config = {"architectures": ["ViTForImageClassification"], "id2label": {}}
    (model / "config.json").write_text(json.dumps(config))
    (model / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": f"{name}ImageProcessor", **fields}))
    subprocess.run([DRIVER, model, f"3x{sides[0]}x{sides[1]}", pictures, out], check=True)
    tensors = {}
    for file in out.iterdir():
        data = file.read_bytes()
        shape = np.frombuffer(data, "<i8", 4)
        tensors[file.name] = np.frombuffer(data, "<f4", offset=32).reshape(shape)
    return tensors


def compare(arguments, folder):
    encoded = dict(pictures(arguments.pictures))
    files = folder / "pictures"
    files.mkdir()
    for name, data in encoded.items():
        (files / name).write_bytes(data)
    sources = {name: upright(data) for name, data in encoded.items()}
    failed = False
    print(f"| class | pictures | mean steps of 255 | worst picture | same label |\n|---|---|---|---|---|")
    for name in arguments.only:
        sides, fields = CLASSES[name]
        own = prepared(folder, sides, files, name, fields)
        processor = processor_of(name, fields)
        session = vit(sides[0]) if sides[0] else None
        off, same, worst, apart = [], 0, (0, ""), 0.0
        for file, source in sources.items():
            try:
                wanted = np.asarray(processor(images=source, return_tensors="np")["pixel_values"])
            except ValueError:
                # Sides of no pixels, which the reference refuses.
                continue
            got = own.get(file)
            if got is None or got.shape != wanted.shape:
                print(f"{name}: {file} is {None if got is None else got.shape}, not {wanted.shape}")
                failed = True
                continue
            # As far as pixels are stretched, differences are: back to 0..1.
            stretch = np.asarray(processor.image_std if processor.do_normalize else 1.0, np.float32).reshape(1, -1, 1, 1)
            if name == "EfficientNet":
                stretch = stretch * stretch / 2
            each = np.abs(got - wanted) * stretch
            off.append(each.mean())
            worst = max(worst, (float(each.mean()), file))
            if session:
                # The transformer's weights are made for pixels of -1 to 1.
                scaled = [(pixels * stretch * 2).astype(np.float32) for pixels in (got, wanted)]
                ours, theirs = (session.run(None, {"pixel_values": pixels})[0][0] for pixels in scaled)
                same += ours.argmax() == theirs.argmax()
                # Of a thousand labels with random weights two may be as good as equal.
                apart = max(apart, (theirs.max() - theirs[ours.argmax()]) / theirs.std())
        mean = float(np.mean(off)) * 255
        label = f"{same} of {len(off)}" if session else "-"
        print(f"| {name} | {len(off)} | {mean:.3f} | {worst[0] * 255:.3f} {worst[1]} | {label} |", flush=True)
        if mean > 1 or worst[0] > 2 * STEP or apart > 0.05 or same < 0.98 * len(off) * bool(session):
            failed = True
    return failed


def golden():
    """A few small pictures, and what the reference and ONNX Runtime answer for them."""
    GOLDEN.mkdir(parents=True, exist_ok=True)
    for old in GOLDEN.iterdir():
        old.unlink()
    answers = {}
    for task in ["classify", "embed"]:
        model = ROOT / "tests/image_models" / task
        fields = json.loads((model / "preprocessor_config.json").read_text())
        processor = processor_of(fields.pop("image_processor_type").removesuffix("ImageProcessor"), fields)
        session = onnxruntime.InferenceSession(model / "model.onnx", providers=["CPUExecutionProvider"])
        for name, data in pictures(20, seed=11, largest=90):
            (GOLDEN / name).write_bytes(data)
            pixels = np.asarray(processor(images=upright(data), return_tensors="np")["pixel_values"])
            numbers = session.run(None, {"pixel_values": pixels})[0][0]
            answers.setdefault(name, {})[task] = [round(float(number), 4) for number in numbers]
    (GOLDEN / "answers.json").write_text(json.dumps(answers, indent=0) + "\n")
    print(f"{len(answers)} pictures, {sum(file.stat().st_size for file in GOLDEN.iterdir())} bytes in {GOLDEN}")


def main():
    parser = argparse.ArgumentParser(prog="scripts/image_parity")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--only", type=lambda text: text.split(","), default=list(CLASSES), help="classes of processors")
    parser.add_argument("--keep", type=pathlib.Path, help="an empty folder for pictures and tensors")
    parser.add_argument("--golden", action="store_true", help="write tests/image_golden")
    arguments = parser.parse_args()
    if arguments.golden:
        return golden()
    with tempfile.TemporaryDirectory(prefix="nobat-image-") as made:
        if compare(arguments, arguments.keep or pathlib.Path(made)):
            sys.exit("image_parity: pictures differ")


if __name__ == "__main__":
    main()
