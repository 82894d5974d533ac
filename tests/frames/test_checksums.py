import h5py
import numpy as np
import pytest

from sfxlab.frames.checksums import fletcher_sums, without_checksum


def plain_sums(content: bytes) -> tuple[int, int]:
    """Word by word as in Fletcher's paper, words of two bytes, the lower one first."""
    first = second = 0
    for word in np.frombuffer(content + bytes(len(content) % 2), dtype="<u2"):
        first = (first + int(word)) % 65535
        second = (second + first) % 65535
    return first, second


def stored_chunk(tmp_path, values: np.ndarray) -> bytes:
    """What HDF5 stores of an array as one chunk with a checksum."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        dataset = file.create_dataset("d", data=values, chunks=values.shape, fletcher32=True)
        return dataset.id.read_direct_chunk((0,) * values.ndim)[1]


@pytest.mark.parametrize(
    ("text", "checksum"), [(b"abcde", 0xF04FC729), (b"abcdef", 0x56502D2A), (b"abcdefgh", 0xEBE19591)]
)
def test_known_texts_have_their_known_checksums(text, checksum):
    words = np.frombuffer(text[: len(text) // 2 * 2], dtype="<u2")
    first, second = fletcher_sums(words, text[-1] if len(text) % 2 else -1)
    assert second << 16 | first == checksum


@pytest.mark.parametrize("size", [0, 1, 2, 3, 511, 512, 513, 514, 99_999])
def test_sums_agree_with_adding_word_by_word(size):
    for content in (np.random.default_rng(size).bytes(size), b"\xff" * size):
        words = np.frombuffer(content[: size // 2 * 2], dtype="<u2")
        assert fletcher_sums(words, content[-1] if size % 2 else -1) == plain_sums(content)


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 70_001])
def test_what_hdf5_writes_is_accepted_and_any_flipped_bit_is_not(tmp_path, size):
    random = np.random.default_rng(size)
    for values in (random.integers(0, 256, size, dtype=np.uint8), np.zeros(size, np.uint8)):
        stored = np.frombuffer(stored_chunk(tmp_path, values), dtype=np.uint8)
        assert (without_checksum(stored) == values).all()
        for _ in range(30):
            damaged = stored.copy()
            damaged[random.integers(len(stored))] ^= 1 << random.integers(8)
            with pytest.raises(ValueError, match="its checksum is another"):
                without_checksum(damaged)


def test_sums_of_all_ones_are_as_good_as_zero(tmp_path):
    values = np.full(4, 255, dtype=np.uint8)
    stored = np.frombuffer(stored_chunk(tmp_path, values), dtype=np.uint8)
    assert (without_checksum(stored) == values).all()


def test_either_byte_order_of_the_sums_is_accepted(tmp_path):
    values = np.arange(101, dtype=np.uint8)
    stored = np.frombuffer(stored_chunk(tmp_path, values), dtype=np.uint8)
    swapped = np.concatenate([stored[:-4], stored[-4:].view("<u2").byteswap().view(np.uint8)])
    assert (swapped != stored).any()
    assert (without_checksum(swapped) == values).all()


@pytest.mark.parametrize("size", range(4))
def test_a_chunk_shorter_than_a_checksum_is_damaged(size):
    with pytest.raises(ValueError, match="a damaged chunk"):
        without_checksum(np.zeros(size, np.uint8))
