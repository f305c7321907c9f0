"""Small vocabularies of the four tokenizer families that embedding GGUFs use.

They are made from one paragraph. Nothing is random, and only the standard library is used.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from dataclasses import dataclass, field

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6

PARAGRAPH = """
The quick brown fox jumps over the lazy dog, and the dog does not mind. A search engine reads the
question, turns it into a vector and looks for the nearest vectors in its index: the closer two
vectors are, the more the two texts have in common. Numbers such as 3.14159, 2024 and 65,536 occur
in real text; so do URLs like https://example.org/a/b?c=1, e-mail addresses, snake_case_names,
CamelCaseNames and code:
    for (int i = 0; i < n; ++i) { sum += x[i] * y[i]; }
    def encode(self, texts, *, batch_size=32): return [self.model(text) for text in texts]
It's what they've said, isn't it? We're sure they'll agree, and I'd say you're right.
Die Straße führt über den Fluß, où le cœur a ses raisons, el niño comió piña, και η θάλασσα,
Москва и мир. 向量检索是信息检索的基础。東京は日本の首都です。 한국어 문장입니다.
السلام عليكم ورحمة الله. हिन्दी में लिखा हुआ पाठ।
"""

_WORDS = """the a an of to and in is it for on with as at by from that this are was be or not
question answer text vector search engine model row word token number code return while if else
def class int float list dict file open close read write time day year city world people water
light music heart book school house street river sea mountain quick brown fox jump over lazy dog
run eat see hello good new old big small red green blue one two three capital france paris berlin
japan tokyo what where who how why which"""

_PIECES = """s ed ing er est ly ness ment tion al able ful less ize ous ive en es th st nd rd ity
ish un re"""

_OTHER_SCRIPTS = (
    "àéßœñøабвгдеиклмнопрстуαβγδεικλμνοςτωابتحدرسعكلمنوي"
    "的是在有人我中文向量日本東京首都。，हिनदपठ한국"
)

SPECIAL_WPM = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@dataclass(frozen=True)
class Vocab:
    """One tokenizer as a GGUF spells it; `keys` are the tokenizer.ggml.* scalars."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    keys: dict[str, object]
    scores: list[float] | None = None
    merges: list[str] | None = None
    parts: dict[str, object] = field(default_factory=dict)

    @property
    def n_normal_first(self) -> int:
        """The first id from which on every token may stand in a random input."""
        return next(i for i, t in enumerate(self.types) if t == NORMAL)


def byte_alphabet() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes (openai/gpt-2, src/encoder.py)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    extra = {b: 256 + i for i, b in enumerate(b for b in range(256) if b not in printable)}
    return [chr(extra.get(b, b)) for b in range(256)]


def train_merges(words: Counter[tuple[str, ...]], n_merges: int) -> list[tuple[str, str]]:
    """Plain byte-pair training: the most frequent pair first, ties in alphabetic order."""
    merges: list[tuple[str, str]] = []
    work = dict(words)
    while len(merges) < n_merges:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, count in work.items():
            for pair in itertools.pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(best)
        joined: dict[tuple[str, ...], int] = {}
        for symbols, count in work.items():
            out: list[str] = []
            for symbol in symbols:
                if out and (out[-1], symbol) == best:
                    out[-1] += symbol
                else:
                    out.append(symbol)
            joined[tuple(out)] = joined.get(tuple(out), 0) + count
        work = joined
    return merges


def wordpiece() -> Vocab:
    """BERT's: words carry U+2581 in front, continuations stand bare."""
    ascii_chars = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    chars = [*ascii_chars, *_OTHER_SCRIPTS]
    starts = [*dict.fromkeys([*chars, *_WORDS.split()])]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    continuations = [*dict.fromkeys([*letters, *_PIECES.split(), *_OTHER_SCRIPTS])]
    tokens = SPECIAL_WPM + ["▁" + t for t in starts] + continuations
    hf_tokens = SPECIAL_WPM + starts + ["##" + t for t in continuations]
    types = [CONTROL] * len(SPECIAL_WPM) + [NORMAL] * (len(tokens) - len(SPECIAL_WPM))
    keys = {
        "token_type_count": 2,
        "bos_token_id": 2,
        "cls_token_id": 2,
        "eos_token_id": 3,
        "seperator_token_id": 3,
        "padding_token_id": 0,
        "unknown_token_id": 1,
        "mask_token_id": 4,
    }
    return Vocab("bert", "default", tokens, types, keys, parts={"hf_tokens": hf_tokens})


def byte_bpe(pre: str, specials: list[str], keys: dict[str, object]) -> Vocab:
    """GPT-2 style byte-level BPE; special tokens come last, `keys` may name them by their text."""
    alphabet = byte_alphabet()
    words: Counter[tuple[str, ...]] = Counter()
    for word in re.findall(r" ?[^\W\d_]+|\d| ?[^\s\w]+|_|\s+", PARAGRAPH):
        words[tuple(alphabet[b] for b in word.encode())] += 1
    merges = train_merges(words, 220)
    tokens = alphabet + [a + b for a, b in merges] + specials
    types = [NORMAL] * (len(tokens) - len(specials)) + [CONTROL] * len(specials)
    ids = {k: tokens.index(v) if isinstance(v, str) else v for k, v in keys.items()}
    return Vocab(
        "gpt2",
        pre,
        tokens,
        types,
        ids,
        merges=[f"{a} {b}" for a, b in merges],
        parts={"merges": merges, "specials": specials},
    )


def _sentence_words() -> Counter[tuple[str, ...]]:
    return Counter(tuple("▁" + word) for word in PARAGRAPH.split())


def sentence_merges(n_merges: int) -> list[tuple[str, str]]:
    """Merges over characters, of words with U+2581 in front."""
    return train_merges(_sentence_words(), n_merges)


def sentence_pieces(n_merges: int) -> tuple[list[str], list[str]]:
    """The characters of such words, and what merging makes of them."""
    chars = sorted({c for word in _sentence_words() for c in word})
    return chars, [a + b for a, b in sentence_merges(n_merges)]


def sentencepiece(*, add_bos: bool, add_eos: bool) -> Vocab:
    """Llama's and Gemma's: pieces merged by score, unknown characters fall back to byte tokens."""
    chars, pieces = sentence_pieces(160)
    pieces = [*dict.fromkeys(p for p in pieces if p not in chars)]
    control = ["<unk>", "<s>", "</s>"]
    tokens = control + [f"<0x{b:02X}>" for b in range(256)] + pieces + chars
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * (len(pieces) + len(chars))
    scores = [0.0] * 259 + [-float(i) for i in range(len(pieces) + len(chars))]
    keys = {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        "add_bos_token": add_bos,
        "add_eos_token": add_eos,
        "add_space_prefix": True,
    }
    return Vocab("llama", "default", tokens, types, keys, scores=scores)


def unigram() -> Vocab:
    """T5's and XLM-RoBERTa's: the segmentation with the best sum of log probabilities."""
    chars, pieces = sentence_pieces(160)
    pieces = [*dict.fromkeys(p for p in pieces if p not in chars)]
    control = ["<pad>", "</s>", "<unk>", "<s>", "<mask>"]
    tokens = control + pieces + chars
    types = [CONTROL, CONTROL, UNKNOWN, CONTROL, CONTROL] + [NORMAL] * (len(tokens) - 5)
    scores = [0.0] * 5 + [-4.0 - math.log(2 + i) for i in range(len(pieces))] + [-12.0] * len(chars)
    keys = {
        "token_type_count": 1,
        "bos_token_id": 3,
        "cls_token_id": 3,
        "eos_token_id": 1,
        "seperator_token_id": 1,
        "padding_token_id": 0,
        "unknown_token_id": 2,
        "mask_token_id": 4,
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
        "add_bos_token": False,
        "add_eos_token": True,
    }
    return Vocab("t5", "default", tokens, types, keys, scores=scores)


def qwen(more: tuple[str, ...] = ()) -> Vocab:
    """Qwen2 and Qwen3, Jina v4 and v5-small: no BOS, no EOS, markers as control tokens."""
    specials = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        *more,
    ]
    keys = {
        "bos_token_id": "<|endoftext|>",
        "eos_token_id": "<|im_end|>",
        "padding_token_id": "<|endoftext|>",
        "add_bos_token": False,
    }
    return byte_bpe("qwen2", specials, keys)


def eurobert(*, add_eos_key: bool, more: tuple[str, ...] = ()) -> Vocab:
    """EuroBERT and Jina v5-nano: Llama 3's splitting rule, the end token appended."""
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", "<|mask|>", *more]
    keys: dict[str, object] = {
        "bos_token_id": "<|begin_of_text|>",
        "eos_token_id": "<|end_of_text|>",
        "padding_token_id": "<|pad|>",
        "mask_token_id": "<|mask|>",
        "add_bos_token": False,
    }
    if add_eos_key:
        keys["add_eos_token"] = True
    return byte_bpe("jina-v5-nano", specials, keys)


def modern_bert() -> Vocab:
    """ModernBERT: byte-level BPE between [CLS] and [SEP]."""
    keys = {
        "bos_token_id": "[CLS]",
        "cls_token_id": "[CLS]",
        "eos_token_id": "[SEP]",
        "seperator_token_id": "[SEP]",
        "padding_token_id": "[PAD]",
        "unknown_token_id": "[UNK]",
        "mask_token_id": "[MASK]",
        "add_bos_token": True,
        "add_eos_token": True,
        "add_sep_token": True,
    }
    return byte_bpe("modern-bert", ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"], keys)
