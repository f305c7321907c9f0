"""Converts BERT encoders from safetensors to GGUF."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import MissingExtraError, ModelFileError, ModelFormatError, UnsupportedError

FileType = Literal["F32", "F16", "Q8_0"]

# Values of the GGUF enums that are written here. Source: gguf/constants.py, LlamaFileType,
# PoolingType and TokenType.
_FILE_TYPES: Mapping[str, int] = {"F32": 0, "F16": 1, "Q8_0": 7}
_POOLING = {"mean_tokens": 1, "cls_token": 2, "lasttoken": 3}
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5

# Roles as gguf/constants.py spells them, and BERT's tokens for them.
_SPECIAL_TOKENS = {
    "bos": "[CLS]",
    "cls": "[CLS]",
    "seperator": "[SEP]",
    "unknown": "[UNK]",
    "padding": "[PAD]",
    "mask": "[MASK]",
}

# Names of the tensors that llama.cpp's "bert" reads (src/models/bert.cpp), and theirs in the
# safetensors file. The pooler and the heads of pre-training have no part in an embedding.
_TENSORS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
_LAYER_TENSORS = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
_UNUSED_TENSORS = re.compile(r"embeddings\.position_ids$|pooler\.|cls\.")
# llama.cpp adds rows of these two to activations and wants them in full precision.
_KEEP_F32 = {"position_embd.weight", "token_types.weight"}

# In Q8_0 too: on all-MiniLM-L6-v2 this takes 1.6 MB of 24 and lifts the lowest cosine to the full
# precision from 0.9987 to 0.9994 (61 texts of tests/parity/texts.py).
_KEEP_F16 = ("attn_v.weight", "attn_output.weight")


def convert_bert(
    model_dir: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    file_type: FileType = "F16",
    *,
    name: str | None = None,
) -> Path:
    """Converts a BERT encoder with a WordPiece vocabulary.

    Parameters
    ----------
    model_dir : str or path-like
        Folder with ``config.json``, ``model.safetensors``, ``tokenizer.json`` and, for the pooling,
        the Sentence Transformers files ``modules.json`` and ``1_Pooling/config.json``.
    out_path : str or path-like
        The GGUF file to write. It appears when it is complete.
    file_type : {"F16", "F32", "Q8_0"}, optional
        Type of the weight matrices. Norms, biases and position rows stay F32; in a Q8_0 file the
        attention's value and output matrices are F16.
    name : str, optional
        ``general.name`` of the file; the folder's name by default.

    Returns
    -------
    Path
        `out_path`.

    Raises
    ------
    ModelFileError, ModelFormatError, UnsupportedError
        A file is missing, broken, or of a model of another kind.
    MissingExtraError
        The packages gguf and safetensors are not installed.
    """
    gguf, safetensors = _packages()
    if file_type not in _FILE_TYPES:
        raise ValueError(f"file_type must be one of {', '.join(_FILE_TYPES)}, got {file_type!r}")
    folder, target = Path(model_dir), Path(out_path)
    config = _read_json(folder / "config.json")
    if config.get("model_type") != "bert" or config.get("hidden_act") != "gelu":
        raise UnsupportedError(
            "only BERT encoders with the gelu activation can be converted, got model_type "
            f"{config.get('model_type')!r} with hidden_act {config.get('hidden_act')!r}"
        )
    tokenizer = _read_json(folder / "tokenizer.json")

    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary_name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    os.close(handle)
    temporary = Path(temporary_name)
    try:
        writer = gguf.GGUFWriter(temporary, "bert")
        try:
            writer.add_name(name or folder.name)
            writer.add_file_type(_FILE_TYPES[file_type])
            writer.add_quantization_version(2)
            _write_hparams(writer, config, _pooling(folder))
            _write_vocabulary(writer, tokenizer, config)
            for tensor_name, tensor in _tensors(folder / "model.safetensors", safetensors):
                _write_tensor(writer, gguf, tensor_name, tensor, file_type)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
        finally:
            writer.close()
        temporary.chmod(0o644)  # mkstemp's is for its owner alone
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return target


def _packages() -> tuple[Any, Any]:
    try:
        import gguf
        import safetensors
    except ImportError as err:
        raise MissingExtraError(
            f"converting a model needs the package {err.name}: pip install 'ggembed[demo]'"
        ) from None
    return gguf, safetensors


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except OSError as err:
        raise ModelFileError(f"cannot read {path}: {err.strerror}") from err
    except ValueError as err:
        raise ModelFormatError(f"{path} is not a JSON file: {err}") from err
    if not isinstance(content, dict):
        raise ModelFormatError(f"{path} does not hold a JSON object")
    return content


def _pooling(folder: Path) -> int | None:
    """The pooling type of a Sentence Transformers folder, or None if it names none."""
    path = folder / "1_Pooling" / "config.json"
    if not path.is_file():
        return None
    config = _read_json(path)
    for mode, pooling in _POOLING.items():
        if config.get(f"pooling_mode_{mode}"):
            return pooling
    raise UnsupportedError(f"{path} names no pooling of mean, cls or last")


def _write_hparams(writer: Any, config: dict[str, Any], pooling: int | None) -> None:
    try:
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_head_count(config["num_attention_heads"])
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_token_type_count(config.get("type_vocab_size", 1))
    except KeyError as err:
        raise ModelFormatError(f"config.json lacks {err}") from None
    writer.add_causal_attention(False)
    if pooling is not None:
        writer.add_uint32("bert.pooling_type", pooling)


def _write_vocabulary(writer: Any, tokenizer: dict[str, Any], config: dict[str, Any]) -> None:
    """WordPiece as llama.cpp reads it: words open with U+2581, continuations lose their "##"."""
    model = tokenizer.get("model") or {}
    if model.get("type") != "WordPiece" or model.get("continuing_subword_prefix") != "##":
        raise UnsupportedError(f"only WordPiece vocabularies are known, got {model.get('type')!r}")
    added = {token["id"]: token for token in tokenizer.get("added_tokens", [])}
    ids: dict[int, str] = {i: token for token, i in model["vocab"].items()}
    ids.update({i: token["content"] for i, token in added.items()})
    tokens, types = [], []
    for i in range(config.get("vocab_size", len(ids))):
        if i not in ids:
            token, kind = f"[PAD{i}]", _UNUSED
        elif i in added:
            token, kind = ids[i], _CONTROL if added[i].get("special") else _USER_DEFINED
        else:
            token, kind = ids[i], _NORMAL
            token = token[2:] if token.startswith("##") else f"\u2581{token}"
        tokens.append(token)
        types.append(kind)
    if len(tokens) < len(ids):
        raise ModelFormatError(f"the vocabulary has {len(ids)} tokens, vocab_size is {len(tokens)}")
    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types(types)

    normalizer = tokenizer.get("normalizer") or {}
    lowercase = bool(normalizer.get("lowercase", True))
    accents = normalizer.get("strip_accents")  # None: as lowercase
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", lowercase)
    writer.add_bool(
        "tokenizer.ggml.normalizer.strip_accents", lowercase if accents is None else bool(accents)
    )

    by_text = {text: i for i, text in ids.items()}
    for role, text in _SPECIAL_TOKENS.items():
        if text in by_text:
            writer.add_uint32(f"tokenizer.ggml.{role}_token_id", by_text[text])


def _tensors(path: Path, safetensors: Any) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """GGUF names and F32 values of the tensors that an embedding needs."""
    if not path.is_file():
        raise ModelFileError(f"cannot read {path}: no such file")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            tensors = {key: np.asarray(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, TypeError) as err:  # TypeError: not a type of numpy
        raise ModelFormatError(f"cannot read {path}: {err}") from err
    for key, tensor in tensors.items():
        name = key.removeprefix("bert.")
        name = re.sub(r"\.gamma$", ".weight", re.sub(r"\.beta$", ".bias", name))
        if not _UNUSED_TENSORS.match(name):
            yield _gguf_name(name), tensor.astype(np.float32, copy=False)


def _gguf_name(name: str) -> str:
    base, _, kind = name.rpartition(".")
    layer = re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", base)
    known = _LAYER_TENSORS.get(layer[2]) if layer else _TENSORS.get(base)
    if known is None or kind not in ("weight", "bias"):
        raise UnsupportedError(
            f"the model has the tensor {name!r}, which BERT encoders do not have"
        )
    return f"blk.{layer[1]}.{known}.{kind}" if layer else f"{known}.{kind}"


def _write_tensor(
    writer: Any, gguf: Any, name: str, tensor: npt.NDArray[np.float32], file_type: FileType
) -> None:
    if tensor.ndim < 2 or name in _KEEP_F32 or file_type == "F32":
        writer.add_tensor(name, tensor)
    elif file_type == "F16" or name.endswith(_KEEP_F16):
        writer.add_tensor(name, tensor.astype(np.float16))
    else:
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
