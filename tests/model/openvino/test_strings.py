import gc
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import openvino as ov
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.model.openvino.strings import from_openvino, to_openvino

SHAPES = [(6,), (2, 3), (3, 1, 2), (1, 1, 6, 1)]


@given(st.lists(st.binary(max_size=5), min_size=6, max_size=6), st.sampled_from(SHAPES))
@settings(deadline=None)
def test_strings_come_back_byte_for_byte(strings: list[bytes], shape: tuple[int, ...]) -> None:
    tensor = to_openvino(strings, shape)
    assert ov.Type.string == tensor.element_type
    assert shape == tuple(tensor.shape)
    assert strings == from_openvino(tensor)


@pytest.mark.parametrize("string", [b"", b"\0", b"a\0\0", b"\0a", b"\xff\xfe", "ø".encode()])
def test_a_scalar_is_one_string(string: bytes) -> None:
    tensor = to_openvino([string], ())
    assert () == tuple(tensor.shape)
    assert [string] == from_openvino(tensor)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 4)])
def test_an_empty_tensor_has_no_strings(shape: tuple[int, ...]) -> None:
    tensor = to_openvino([], shape)
    assert shape == tuple(tensor.shape)
    assert [] == from_openvino(tensor)


def test_one_long_string_makes_the_others_no_longer() -> None:
    strings = [b"x"] * 20_000 + [b"y" * 1_000_000]
    tracemalloc.start()
    same = from_openvino(to_openvino(strings, (len(strings),)))
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert strings == same
    assert peak_bytes < 20_000_000  # as long as the longest, they would be 20 GB


def test_tensors_keep_their_strings_while_others_are_made() -> None:
    tensors = [to_openvino([b"%d" % n * n], (1,)) for n in range(50)]
    gc.collect()
    assert [[b"%d" % n * n] for n in range(50)] == [from_openvino(tensor) for tensor in tensors]


def test_threads_do_not_mix_their_strings() -> None:
    def there_and_back(n: int) -> bool:
        strings = [b"%d" % n * (i % 7) for i in range(100)]
        return strings == from_openvino(to_openvino(strings, (100,)))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(there_and_back, range(200)))
