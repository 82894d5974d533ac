"""Image files of one exposure: Pilatus' CBF and TIFF, ADSC's SMV, plain TIFF stacks."""

from __future__ import annotations

import base64
import hashlib
import struct
from pathlib import Path

import numpy as np
from fabio.compression import compByteOffset
from numpy.typing import NDArray

PILATUS_COMMENT = """# Detector: PILATUS3 2M, S/N 24-0118, test
# 2026-03-01T12:00:00.123
# Pixel_size 172e-6 m x 172e-6 m
# Silicon sensor, thickness 0.001000 m
# Exposure_time 0.0090000 s
# Exposure_period 0.0100000 s
# Tau = 0 s
# Count_cutoff {cutoff} counts
# Threshold_setting: 6200 eV
# Gain_setting: autog (vrf = 1.000)
# N_excluded_pixels = 3
# Excluded_pixels: badpix_mask.tif
# Flat_field: (nil)
# Trim_file: p2m0118_E12400_T6200.bin
# Image_path: /ramdisk/
# Wavelength {wavelength} A
# Detector_distance {distance} m
# Beam_xy ({beam_x}, {beam_y}) pixels
# Flux 0.000000
# Filter_transmission 1.0000
# Start_angle 0.0000 deg.
# Angle_increment 0.0000 deg.
# Detector_2theta {two_theta} deg.
"""


def pilatus_comment(
    wavelength: float = 1.0,
    distance: float = 0.2,
    beam: tuple[float, float] = (10.5, 20.25),
    cutoff: int = 1000000,
    two_theta: float = 0.0,
) -> str:
    """The comment that Dectris' camera server writes into images."""
    return PILATUS_COMMENT.format(
        wavelength=wavelength, distance=distance, beam_x=beam[0], beam_y=beam[1], cutoff=cutoff, two_theta=two_theta
    )


def write_cbf(path: Path, pixels: NDArray[np.int32], comment: str | None = None) -> Path:
    """A mini-CBF file: int32 pixels, byte-offset compression, MD5, the comment of `pilatus_comment`."""
    binary = bytes(compByteOffset(np.ascontiguousarray(pixels, dtype=np.int32)))
    text = (pilatus_comment() if comment is None else comment).replace("\n", "\r\n")
    head = f"""###CBF: VERSION 1.5, CBFlib v0.7.8 - PILATUS detectors

data_{path.stem}

_array_data.header_convention "PILATUS_1.2"
_array_data.header_contents
;
{text};

_array_data.data
;
--CIF-BINARY-FORMAT-SECTION--
Content-Type: application/octet-stream;
     conversions="x-CBF_BYTE_OFFSET"
Content-Transfer-Encoding: BINARY
X-Binary-Size: {len(binary)}
X-Binary-ID: 1
X-Binary-Element-Type: "signed 32-bit integer"
X-Binary-Element-Byte-Order: LITTLE_ENDIAN
Content-MD5: {base64.b64encode(hashlib.md5(binary).digest()).decode()}
X-Binary-Number-of-Elements: {pixels.size}
X-Binary-Size-Fastest-Dimension: {pixels.shape[1]}
X-Binary-Size-Second-Dimension: {pixels.shape[0]}
X-Binary-Size-Padding: 4095

"""
    tail = b"\0" * 4095 + b"\r\n--CIF-BINARY-FORMAT-SECTION----\r\n;\r\n\r\n"
    path.write_bytes(head.replace("\r\n", "\n").replace("\n", "\r\n").encode() + b"\x0c\x1a\x04\xd5" + binary + tail)
    return path


def write_smv(path: Path, pixels: NDArray[np.uint16], **keywords: object) -> Path:
    """An SMV file of an ADSC detector: 512 bytes of keywords, then little-endian uint16 pixels."""
    values: dict[str, object] = {
        "HEADER_BYTES": "  512", "DIM": 2, "BYTE_ORDER": "little_endian", "TYPE": "unsigned_short",
        "SIZE1": pixels.shape[1], "SIZE2": pixels.shape[0], "PIXEL_SIZE": 0.1024, "BIN": "2x2", "DETECTOR_SN": 915,
        "DATE": "Sun Mar 01 12:00:00 2026", "TIME": "1.00", "DISTANCE": "150.000", "PHI": "0.000",
        "OSC_START": "0.000", "OSC_RANGE": "0.100", "TWOTHETA": "0.000", "WAVELENGTH": "0.97900",
        "BEAM_CENTER_X": "2.048", "BEAM_CENTER_Y": "1.024", "CCD_IMAGE_SATURATION": 65535,
    }  # fmt: skip
    values |= keywords
    head = "{\n" + "".join(f"{key}={value};\n" for key, value in values.items() if value is not None) + "}\n"
    path.write_bytes(head.encode().ljust(512, b" ") + pixels.astype("<u2").tobytes())
    return path


def write_pilatus_tiff(path: Path, pixels: NDArray[np.int32], comment: str | None = None, ifd: int = 8) -> Path:
    """A TIFF file as Pilatus' camera server writes it: int32 pixels at 4096, the comment as image description."""
    text = (pilatus_comment() if comment is None else comment).encode() + b"\0"
    rows, columns = pixels.shape
    long, short, ascii_text = 4, 3, 2
    entries = [
        (256, long, 1, columns), (257, long, 1, rows), (258, short, 1, 32), (259, short, 1, 1), (262, short, 1, 1),
        (270, ascii_text, len(text), 1024), (273, long, 1, 4096), (277, short, 1, 1), (278, long, 1, rows),
        (279, long, 1, pixels.nbytes), (339, short, 1, 2),
    ]  # fmt: skip
    directory = (
        struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries) + b"\0" * 4
    )
    head = (b"II*\0" + struct.pack("<I", ifd)).ljust(ifd, b"\0") + directory
    path.write_bytes((head.ljust(1024, b"\0") + text).ljust(4096, b"\0") + pixels.astype("<i4").tobytes())
    return path


def write_tiff_stack(path: Path, images: NDArray[np.uint16]) -> Path:
    """A TIFF file of several images (n, slow, fast) without a word about the experiment."""
    from PIL import Image

    first, *rest = (Image.fromarray(image) for image in images)
    first.save(path, save_all=True, append_images=rest)
    return path
