"""Pictures to send: a PNG of coloured cells, written by hand."""

import base64
import struct
import zlib


def png(cells, side=16):
    """A file whose cells, a list of rows of (red, green, blue), are squares of `side` pixels."""
    lines = b"".join((b"\0" + b"".join(bytes(colour) * side for colour in row)) * side for row in cells)
    size = struct.pack(">IIBBBBB", len(cells[0]) * side, len(cells) * side, 8, 2, 0, 0, 0)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")


RED, GREEN, BLUE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (128, 128, 128)
CELLS = [[GREY, GREY, GREY, GREY], [GREY, RED, GREY, GREY], [GREY, GREY, GREY, GREEN], [BLUE, BLUE, GREY, GREY]]


def coded(cells=CELLS):
    return {"b64": base64.b64encode(png(cells)).decode()}
