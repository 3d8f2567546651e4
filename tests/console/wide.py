"""A model file with as many outputs as asked for, each its only input: too plain for a library."""


def _varint(value):
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _field(number, value):
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _tensor(name):
    shape = _field(1, _field(2, "rows")) + _field(1, _field(1, 1))
    return _field(1, name) + _field(2, _field(1, _field(1, 1) + _field(2, shape)))


def model(outputs):
    """An ONNX file: `x` FP32 [-1, 1] goes out under each name."""
    names = [f"out_{number:03}" for number in range(outputs)]
    nodes = b"".join(_field(1, _field(1, "x") + _field(2, name) + _field(4, "Identity")) for name in names)
    graph = nodes + _field(2, "wide") + _field(11, _tensor("x")) + b"".join(_field(12, _tensor(name)) for name in names)
    return _field(1, 8) + _field(7, graph) + _field(8, _field(2, 13))
