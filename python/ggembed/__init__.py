"""ggembed: embeddings of texts and media from GGUF models, inside the Python process."""

from ._arrow import to_arrow
from ._info import build_info, devices
from ._native import __version__
from .doctor import doctor
from .embedder import Embedder
from .errors import (
    AbortedError,
    BusyError,
    ClosedError,
    DeviceError,
    EmbedError,
    EmbedWarning,
    EmptyTextError,
    InternalError,
    InvalidInputError,
    LibraryLoadError,
    MediaError,
    MissingDecoderError,
    MissingExtraError,
    ModelFileError,
    ModelFormatError,
    NotFiniteError,
    OutOfMemoryError,
    TextTooLongError,
    TruncationWarning,
    UnsupportedError,
)
from .files import MemoryEstimate, estimate, quantize, quantize_levels
from .findings import Finding, Report, Similarity
from .media import Audio, Image, MediaLimits, Pdf, Video
from .quantization import calibration_ranges, quantize_embeddings
from .results import Encoded, TokenRows
from .scores import maxsim, similarity
from .types import Attention, DeviceInfo, EngineStats, ModelInfo, Pooling, TowerInfo, Weights

__all__ = [
    "AbortedError",
    "Attention",
    "Audio",
    "BusyError",
    "ClosedError",
    "DeviceError",
    "DeviceInfo",
    "EmbedError",
    "EmbedWarning",
    "Embedder",
    "EmptyTextError",
    "Encoded",
    "EngineStats",
    "Finding",
    "Image",
    "InternalError",
    "InvalidInputError",
    "LibraryLoadError",
    "MediaError",
    "MediaLimits",
    "MemoryEstimate",
    "MissingDecoderError",
    "MissingExtraError",
    "ModelFileError",
    "ModelFormatError",
    "ModelInfo",
    "NotFiniteError",
    "OutOfMemoryError",
    "Pdf",
    "Pooling",
    "Report",
    "Similarity",
    "TextTooLongError",
    "TokenRows",
    "TowerInfo",
    "TruncationWarning",
    "UnsupportedError",
    "Video",
    "Weights",
    "__version__",
    "build_info",
    "calibration_ranges",
    "devices",
    "doctor",
    "estimate",
    "maxsim",
    "quantize",
    "quantize_embeddings",
    "quantize_levels",
    "similarity",
    "to_arrow",
]
