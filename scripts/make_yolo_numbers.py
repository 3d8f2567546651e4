#!/usr/bin/env python3
"""What Ultralytics makes of `pose` and `obb` exports: crates/nobat-image/tests/yolo_numbers.json.

    .nobat/suite/bin/python scripts/make_yolo_numbers.py

Draws outputs in the layouts of these exports, and computes what they come to by Ultralytics' formulas, written
out in numpy (ultralytics/utils/ops.py, nms.py and metrics.py of 8.3): the best class of a place, overlaps (of
boxes at angles by probiou, where a worse box goes for any better one, also one that goes itself), and points in
pixels of the picture. A test of nobat-image gives its own.
"""

import json
import math
import pathlib

import numpy as np

TO = pathlib.Path(__file__).resolve().parent.parent / "crates/nobat-image/tests/yolo_numbers.json"
SIDE, PICTURE = 64, (128, 64)
CONFIDENCE, IOU, EPSILON = 0.25, 0.7, 1e-7
NAMES = ["ship", "plane", "person"]
POINTS = 4


def gain_and_pads():
    width, height = PICTURE
    gain = min(SIDE / height, SIDE / width)
    pads = [round((SIDE - round(side * gain)) / 2 - 0.1) for side in PICTURE]
    return gain, np.array(pads)


def scaled(points, clip):
    gain, pads = gain_and_pads()
    points = (points - pads) / gain
    return np.clip(points, 0, PICTURE) if clip else points


def overlap(a, b):
    common = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return common / (np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common)


def greedy(boxes, classes, scores):
    kept = []
    for at in np.argsort(-scores, kind="stable"):
        if not any(classes[at] == classes[other] and overlap(boxes[other], boxes[at]) > IOU for other in kept):
            kept.append(at)
    return kept


def covariance(box):
    _, _, width, height, angle = box
    a, b, cos, sin = width**2 / 12, height**2 / 12, math.cos(angle), math.sin(angle)
    return a * cos**2 + b * sin**2, a * sin**2 + b * cos**2, (a - b) * cos * sin


def probiou(one, other):
    (a1, b1, c1), (a2, b2, c2) = covariance(one), covariance(other)
    (x1, y1), (x2, y2) = one[:2], other[:2]
    determinant = (a1 + a2) * (b1 + b2) - (c1 + c2) ** 2
    t1 = ((a1 + a2) * (y1 - y2) ** 2 + (b1 + b2) * (x1 - x2) ** 2) / (determinant + EPSILON) * 0.25
    t2 = ((c1 + c2) * (x2 - x1) * (y1 - y2)) / (determinant + EPSILON) * 0.5
    own = max(a1 * b1 - c1**2, 0) * max(a2 * b2 - c2**2, 0)
    t3 = math.log(determinant / (4 * math.sqrt(own) + EPSILON) + EPSILON) * 0.5
    distance = min(max(t1 + t2 + t3, EPSILON), 100.0)
    return 1 - math.sqrt(1 - math.exp(-distance) + EPSILON)


def fast(boxes, classes, scores):
    order = list(np.argsort(-scores, kind="stable"))
    better = lambda place: (other for other in order[:place] if classes[other] == classes[order[place]])
    return [at for place, at in enumerate(order) if not any(probiou(boxes[o], boxes[at]) >= IOU for o in better(place))]


def corners_of(box):
    x, y, width, height, angle = box
    if angle % math.pi >= math.pi / 2:
        width, height = height, width
    angle %= math.pi / 2
    cos, sin = math.cos(angle), math.sin(angle)
    along, across = np.array([width / 2 * cos, width / 2 * sin]), np.array([-height / 2 * sin, height / 2 * cos])
    return np.array([x, y]) + np.array([along + across, along - across, -along - across, -along + across])


def points(of):
    return [{"x": float(x), "y": float(y)} for x, y in of]


def place(low, high):
    return {"xmin": float(low[0]), "ymin": float(low[1]), "xmax": float(high[0]), "ymax": float(high[1])}


def things(random, count):
    """Clusters of boxes that overlap, and their scores."""
    centres = random.uniform([4, 18], [60, 46], (count // 4, 2)).repeat(4, axis=0) + random.normal(0, 0.6, (count // 4 * 4, 2))
    sizes = random.uniform(6, 30, (count // 4, 2)).repeat(4, axis=0) * random.uniform(0.9, 1.1, (count // 4 * 4, 2))
    return np.concatenate([centres, sizes], 1).round(3)


def case(name, task, shape, numbers, expected, **metadata):
    metadata |= {"task": task, "stride": "32", "imgsz": f"[{SIDE}, {SIDE}]", "names": str(dict(enumerate(NAMES)))}
    return {"name": name, "metadata": metadata, "shape": shape, "numbers": numbers.ravel().tolist(), "expected": expected}


def pose(random, ready):
    boxes = things(random, 24)
    scores = random.uniform(0, 0.9, (24, len(NAMES))).round(4)
    joints = np.concatenate([random.uniform(-4, 68, (24, POINTS, 2)), random.uniform(0, 1, (24, POINTS, 1))], 2).round(3)
    edges = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1).round(3)
    classes, best = scores.argmax(1), scores.max(1)
    found = np.flatnonzero(best > CONFIDENCE)
    if ready:
        kept = sorted(found, key=lambda at: -best[at])
    else:
        kept = found[greedy(edges[found], classes[found], best[found])]
    expected = []
    for at in kept:
        joint = [own | {"score": float(sure)} for own, sure in zip(points(scaled(joints[at, :, :2], True)), joints[at, :, 2])]
        low, high = scaled(edges[at].reshape(2, 2), True)
        expected.append({"label": NAMES[classes[at]], "score": best[at], "box": place(low, high), "keypoints": joint})
    flat = joints.reshape(24, -1)
    metadata = {"kpt_shape": f"[{POINTS}, 3]"}
    if ready:
        numbers = np.concatenate([edges, best[:, None], classes[:, None], flat], 1)
        return case("pose, end to end", "pose", [1, *numbers.shape], numbers, expected, end2end="True", **metadata)
    numbers = np.concatenate([boxes, scores, flat], 1).T
    return case("pose", "pose", [1, *numbers.shape], numbers, expected, **metadata)


def obb(random, ready):
    boxes = things(random, 24)
    scores = random.uniform(0, 0.9, (24, len(NAMES))).round(4)
    angles = (random.uniform(-0.7, 2.3, 6).repeat(4) + random.normal(0, 0.05, 24)).round(4)
    boxes = np.concatenate([boxes, angles[:, None]], 1)
    classes, best = scores.argmax(1), scores.max(1)
    found = np.flatnonzero(best > CONFIDENCE)
    kept = sorted(found, key=lambda at: -best[at]) if ready else found[fast(boxes[found], classes[found], best[found])]
    expected = []
    for at in kept:
        corners = corners_of(boxes[at])
        within = scaled(corners, True)
        whole = place(within.min(0), within.max(0))
        expected.append({"label": NAMES[classes[at]], "score": best[at], "box": whole, "corners": points(scaled(corners, False))})
    if ready:
        numbers = np.concatenate([boxes[:, :4], best[:, None], classes[:, None], angles[:, None]], 1)
        return case("obb, end to end", "obb", [1, *numbers.shape], numbers, expected, end2end="True")
    numbers = np.concatenate([boxes[:, :4], scores, angles[:, None]], 1).T
    return case("obb", "obb", [1, *numbers.shape], numbers, expected)


def main():
    random = np.random.default_rng(11)
    cases = [make(random, ready) for make in (pose, obb) for ready in (False, True)]
    for made in cases:
        print(f"{made['name']}: {len(made['expected'])} things")
    TO.write_text(json.dumps({"picture": PICTURE, "side": SIDE, "cases": cases}) + "\n")


if __name__ == "__main__":
    main()
