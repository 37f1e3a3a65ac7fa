"""The errors that rs4d_edge raises on purpose.

One base to catch them all, and a subclass only where a caller would act differently. A message names the thing, what
came, what was expected, and what to do about it. The original exception is kept as `__cause__`.
"""

from __future__ import annotations


class RS4DError(Exception):
    """Base of every deliberate error of this library."""


class InputError(RS4DError, ValueError):
    """The caller passed something that cannot be used (a frame, a threshold, an option): correct it and call again."""


class FrameError(InputError):
    """One frame cannot be used (type, shape, size, unreadable file): skip it, the next one may be fine."""


class BundleError(RS4DError):
    """A bundle is missing, incomplete, damaged, edited or of an unknown version: fetch or export it again."""


class CheckpointError(RS4DError):
    """A checkpoint cannot be read, or its keys and shapes do not fit the model."""


class RuntimeUnavailable(RS4DError):  # noqa: N818 (it says what happened)
    """An optional package or native library that was asked for is not installed or does not load here."""


class RuntimeFailure(RS4DError):  # noqa: N818 (it says what happened)
    """A runtime ran, but its answer cannot be used: wrong names or shapes, NaN, or the engine's own failure."""


class ExportError(RS4DError):
    """An export could not be completed."""


class ParityError(ExportError):
    """An export was completed, but it does not give what the reference gives: it must not be used."""


class DataError(RS4DError):
    """A data set or its annotation file is missing or malformed."""


class ClosedError(RS4DError):
    """Something was used after it was closed."""
