"""Reference scores for rerankers, computed by transformers (torch) from the very same weights.

python reference_rerankers.py                 # data/rerankers.npz
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import golden
import make_tiny_rerankers
import numpy as np
import reference
import tokenizers_reference
import torch
import transformers
from reference import Gguf
from torch import nn

Score = Callable[[list[int]], np.ndarray]


def _wrap(
    base: nn.Module, whole: nn.Module, prefix: str, head: dict[str, torch.Tensor]
) -> nn.Module:
    """A classifier with the weights of its base model and of its head."""
    state = {f"{prefix}.{k}": v for k, v in base.state_dict().items()}
    whole.load_state_dict({**state, **head})
    return whole.double().eval()


def _head(g: Gguf, names: dict[str, str]) -> dict[str, torch.Tensor]:
    """The tensors of the head, taken out of the file's, under the names of transformers."""
    return {
        f"{name}.{kind}": g.tensors.pop(f"{part}.{kind}")
        for part, name in names.items()
        for kind in ("weight", "bias")
        if f"{part}.{kind}" in g.tensors
    }


def _bert(g: Gguf) -> nn.Module:
    n_labels = len(g.tensors["cls.output.bias"])
    head = _head(g, {"cls": "bert.pooler.dense", "cls.output": "classifier"})
    base = reference.build(g)
    whole = transformers.BertForSequenceClassification(_with_labels(base.config, n_labels))
    return _wrap(base, whole, "bert", head)


def _roberta(g: Gguf) -> nn.Module:
    head = _head(g, {"cls": "classifier.dense", "cls.output": "classifier.out_proj"})
    base = reference.build(g)
    config = transformers.XLMRobertaConfig(**base.config.to_dict() | {"type_vocab_size": 1})
    whole = transformers.XLMRobertaForSequenceClassification(_with_labels(config, 1))
    return _wrap(base, whole, "roberta", head)


def _modern_bert(g: Gguf) -> nn.Module:
    names = {"cls": "head.dense", "cls.norm": "head.norm", "cls.output": "classifier"}
    head = _head(g, names)
    base = reference.build(g)
    base.config.classifier_pooling = "cls" if g.keys.get("classifier.pooling_type") == 2 else "mean"
    whole = transformers.ModernBertForSequenceClassification(_with_labels(base.config, 1))
    return _wrap(base, whole, "model", head)


class _Qwen3(nn.Module):
    """The probability of "yes" against "no" as the next token, as Qwen3-Reranker's card has it."""

    def __init__(self, g: Gguf) -> None:
        super().__init__()
        del g.tensors["cls.output.weight"]
        base = reference.build(g)
        base.config.tie_word_embeddings = True
        self.whole = transformers.Qwen3ForCausalLM(base.config)
        state = {f"model.{k}": v for k, v in base.state_dict().items()}
        self.whole.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
        self.whole.double().eval()

    def forward(self, input_ids: torch.Tensor) -> transformers.utils.ModelOutput:
        logits = self.whole(input_ids=input_ids).logits[:, -1]
        answers = [make_tiny_rerankers.YES, make_tiny_rerankers.NO]
        return transformers.utils.ModelOutput(logits=logits[:, answers].softmax(-1))


def _with_labels(config: object, n_labels: int) -> object:
    config.num_labels = n_labels
    return config


_BUILDERS = {
    "bert": _bert,
    "xlm-roberta": _roberta,
    "modern-bert": _modern_bert,
    "modern-bert-cls": _modern_bert,
    "modern-bert-no-key": _modern_bert,
    "qwen3": _Qwen3,
}


def load(name: str, path: Path) -> Score:
    """A function from the token ids of a pair to its scores, [n_cls_out] float64."""
    with reference.float64():
        model = _BUILDERS[name](Gguf(path))

    def score(ids: list[int]) -> np.ndarray:
        extra = {}
        if name == "bert":
            sep = make_tiny_rerankers.build(name).vocab.keys["seperator_token_id"]
            extra["token_type_ids"] = torch.tensor([golden.segments(ids, sep)])
        if name == "xlm-roberta":  # the file's table begins at the first position in use
            extra["position_ids"] = torch.arange(len(ids))[None]
        with torch.inference_mode(), reference.float64():
            out = model(input_ids=torch.tensor([ids]), **extra)
        return out.logits[0].double().numpy()

    return score


def write(folder: Path) -> Path:
    """Golden scores of every reranker for pairs of fixed ids and, where possible, of texts."""
    data: dict[str, np.ndarray] = {"versions": np.array(reference.versions())}
    with tempfile.TemporaryDirectory() as scratch:
        for name in make_tiny_rerankers.NAMES:
            model = make_tiny_rerankers.build(name)
            path = make_tiny_rerankers.make(name, Path(scratch) / "model.gguf")
            score = load(name, path)
            data[f"{name}/content_sha256"] = np.array(model.content_sha256())
            pairs = golden.pair_ids(model)
            data[f"{name}/ids"] = np.stack([score(ids) for ids in pairs])
            encode = tokenizers_reference.of_pairs(model)
            if encode is not None:
                by_text = [encode(query, document) for query, document in golden.TEXT_PAIRS]
                data[f"{name}/text"] = np.stack([score(ids) for ids in by_text])
                data[f"{name}/text_ids"], data[f"{name}/text_offsets"] = golden.flatten(by_text)
            first = data[f"{name}/ids"][:, 0]
            print(f"{name}: first score {first.min():.3f} to {first.max():.3f}")
    out = folder / "rerankers.npz"
    np.savez_compressed(out, **data)
    return out


def main() -> None:
    torch.set_num_threads(1)
    golden.run(write, __doc__)


if __name__ == "__main__":
    main()
