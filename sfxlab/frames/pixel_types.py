"""The types of pixels that kernels are compiled for."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_COMPILED = "hHiIlLqQfd"
_WIDER = {"b": np.int16, "B": np.uint16, "?": np.uint16, "e": np.float32}


def compiled_pixels(data: NDArray[Any]) -> NDArray[Any]:
    """Pixels with the same values in a type that kernels take: small types become wider, as compiling for each of
    them costs more than it saves; of others that kernels do not take, doubles."""
    kind = data.dtype.char
    return data if kind in _COMPILED else data.astype(_WIDER.get(kind, np.float64))


def read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same array for kernels that only read it: numba compiles once for those that may be written and once for
    those that may not."""
    view = array.view()
    view.flags.writeable = False
    return view
