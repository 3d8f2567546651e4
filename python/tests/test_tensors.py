"""Arrays as tensors: what is converted, and what is refused. No I/O."""

from __future__ import annotations

from typing import Any

import pytest

import nobat
from nobat import _tensors as tensors

np = pytest.importorskip("numpy")


def pack(array: Any, datatype: str) -> list[Any]:
    """What a server reads of it."""
    shape, blob = tensors.pack(array, nobat.TensorSpec("x", datatype, (-1,)))
    assert shape == list(array.shape)
    read: list[Any] = np.frombuffer(blob, dtype=tensors.DTYPES[datatype]).tolist()
    return read


@pytest.mark.parametrize(
    ("values", "given", "datatype"),
    [
        ([300], "int64", "INT8"), ([-129], "int64", "INT8"), ([2**31], "int64", "INT32"), ([2**63], "uint64", "INT64"),
        ([1, 256], "uint16", "UINT8"), ([1e300], "float64", "FP32"), ([-1e300], "float64", "FP16"), ([70000], "int64", "FP16"),
    ],
)  # fmt: skip
def test_a_number_beyond_the_range_is_refused_and_never_wrapped(values: list[Any], given: str, datatype: str) -> None:
    with pytest.raises(nobat.InvalidInput, match=f"beyond the range of {datatype}"):
        pack(np.array(values, dtype=given), datatype)


def test_what_loses_nothing_but_precision_is_converted() -> None:
    assert pack(np.array([-128, 127]), "INT8") == [-128, 127]
    assert pack(np.array([2**31 - 1], dtype=np.uint64), "INT32") == [2**31 - 1]
    assert pack(np.array([], dtype=np.int64), "INT8") == []
    assert pack(np.array([1.5, 1e-300]), "FP32") == [1.5, 0.0]
    assert pack(np.array([np.inf, -np.inf]), "FP16") == [np.inf, -np.inf]
    assert np.isnan(pack(np.array([np.nan]), "FP16")).all()
    assert pack(np.array([True, False]), "INT32") == [1, 0]
    assert pack(np.array([[1, 2], [3, 4]], dtype=">i8", order="F"), "INT32") == [1, 2, 3, 4]
    assert pack(np.array(7, dtype=">f4"), "FP32") == [7.0]
    assert pack(np.zeros((0, 3)), "FP32") == []


def test_an_element_that_is_no_text_is_refused() -> None:
    spec = nobat.TensorSpec("x", "BYTES", (-1,))
    assert tensors.pack(np.array(["é", b"\xff", ""], dtype=object), spec)[1] == b"\2\0\0\0\xc3\xa9\1\0\0\0\xff\0\0\0\0"
    for element, why in ((None, "is None"), ("\ud800", "cannot be sent")):
        with pytest.raises(nobat.InvalidInput, match=why):
            tensors.pack(np.array(["a", element], dtype=object), spec)
