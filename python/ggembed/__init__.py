"""ggembed: text embeddings from GGUF models, inside the Python process."""

from ._info import build_info, devices
from ._native import __version__
from .embedder import Embedder
from .errors import (
    AbortedError,
    ClosedError,
    DeviceError,
    EmbedError,
    EmptyTextError,
    InternalError,
    InvalidInputError,
    LibraryLoadError,
    MissingExtraError,
    ModelFileError,
    ModelFormatError,
    NotFiniteError,
    OutOfMemoryError,
    TextTooLongError,
    UnsupportedError,
)
from .types import Attention, DeviceInfo, ModelInfo, Pooling

__all__ = [
    "AbortedError",
    "Attention",
    "ClosedError",
    "DeviceError",
    "DeviceInfo",
    "EmbedError",
    "Embedder",
    "EmptyTextError",
    "InternalError",
    "InvalidInputError",
    "LibraryLoadError",
    "MissingExtraError",
    "ModelFileError",
    "ModelFormatError",
    "ModelInfo",
    "NotFiniteError",
    "OutOfMemoryError",
    "Pooling",
    "TextTooLongError",
    "UnsupportedError",
    "__version__",
    "build_info",
    "devices",
]
