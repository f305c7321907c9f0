"""The Hugging Face tokenizers that token ids are compared with, built by the tokenizers package."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import gguf
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

if TYPE_CHECKING:
    from pathlib import Path

    from make_tiny_models import TinyModel

Encode = Callable[[str], list[int]]

# The splitting rules as the models' own tokenizer.json files spell them.
_QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _encoder(tokenizer: Tokenizer) -> Encode:
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return lambda text: tokenizer.encode(text).ids


def minilm(tokenizer_json: Path) -> Encode:
    """All-MiniLM-L6-v2's own file; a "[MASK]" in a text is plain text, as in ggembed."""
    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    tokenizer.encode_special_tokens = True
    return _encoder(tokenizer)


def _wordpiece(tokens: list[str]) -> Tokenizer:
    vocab = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(t, vocab[t]) for t in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=ends)
    return tokenizer


def _modern_bert(model: TinyModel) -> Tokenizer:
    vocab = {token: i for i, token in enumerate(model.vocab.tokens)}
    tokenizer = Tokenizer(models.BPE(vocab, model.vocab.parts["merges"]))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    return tokenizer


def of_gguf(path: Path) -> Encode:
    """The WordPiece tokenizer whose vocabulary a GGUF holds, where U+2581 opens a word."""
    fields = gguf.GGUFReader(path).fields
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    names = [
        t if kind != 1 else t[1:] if t.startswith("\u2581") else f"##{t}"
        for t, kind in zip(tokens, types, strict=True)
    ]
    return _encoder(_wordpiece(names))


def _byte_bpe(
    model: TinyModel, pattern: str, *, nfc: bool, append: str | None, ignore_merges: bool = False
) -> Tokenizer:
    vocab = {token: i for i, token in enumerate(model.vocab.tokens)}
    merges = model.vocab.parts["merges"]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = Sequence(
        [
            Split(Regex(pattern), behavior="isolated"),
            ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    if append is not None:
        ends = [(append, vocab[append])]
        tokenizer.post_processor = processors.TemplateProcessing(
            f"$A {append}", special_tokens=ends
        )
    return tokenizer


def of_pairs(model: TinyModel) -> Callable[[str, str], list[int]] | None:
    """Pairs on a tiny reranker's vocabulary, or None for families not compared by text."""
    template = model.full_keys.get("tokenizer.chat_template.rerank")
    if template is not None:
        tokenizer = _byte_bpe(model, _QWEN2, nfc=True, append=None)
        tokenizer.add_special_tokens(model.vocab.parts["specials"])
        filled = lambda q, d: template.replace("{document}", d).replace("{query}", q, 1)  # noqa: E731
        return lambda query, document: tokenizer.encode(filled(query, document)).ids
    if model.vocab.model == "bert":
        tokenizer = _wordpiece(model.vocab.parts["hf_tokens"])
    elif model.vocab.pre == "modern-bert":
        tokenizer = _modern_bert(model)
    else:
        return None
    ends = [(t, tokenizer.token_to_id(t)) for t in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    tokenizer.no_truncation()
    return lambda query, document: tokenizer.encode(query, document).ids


def plain_and_special(model: TinyModel) -> tuple[Encode, Encode]:
    """Ids of text that is not read for special tokens, and of text that is; nothing is appended."""
    qwen = model.vocab.pre == "qwen2"
    pattern = _QWEN2 if qwen else _LLAMA3
    made = [
        _byte_bpe(model, pattern, nfc=qwen, append=None, ignore_merges=not qwen) for _ in range(2)
    ]
    made[1].add_special_tokens(model.vocab.parts["specials"])
    return _encoder(made[0]), _encoder(made[1])


def of_vocab(model: TinyModel) -> Encode | None:
    """The equal of a tiny model's vocabulary, or None for families not compared by text."""
    if model.vocab.model == "bert":
        return _encoder(_wordpiece(model.vocab.parts["hf_tokens"]))
    if model.vocab.pre == "qwen2":
        return _encoder(_byte_bpe(model, _QWEN2, nfc=True, append=None))
    if model.vocab.pre == "jina-v5-nano":
        return _encoder(
            _byte_bpe(model, _LLAMA3, nfc=False, append="<|end_of_text|>", ignore_merges=True)
        )
    return None
