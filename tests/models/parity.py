"""How far a model of ours is from the one in transformers or PEFT, as the largest absolute difference.

The tests assert bounds on these numbers; `scripts/parity_table.py` prints them.
"""

import functools
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rr_jax.lora import adapter as lora
from rr_jax.lora.peft import load_peft, save_peft
from rr_jax.models import hub
from rr_jax.models.decoder import AFTER_LAYER, decode_step, prefill, read_inputs
from rr_jax.models.loss import token_nll
from rr_jax.models.spec import linear_shapes
from tests.jitted import forward

LENGTHS = (11, 5, 8)
WIDTH = 11
NEW_TOKENS = 12


def rows() -> list[np.ndarray]:
    """Three token sequences of different lengths, avoiding the special ids."""
    random = np.random.default_rng(3)
    return [random.integers(8, 61, length) for length in LENGTHS]


def left_padded(sequences: list[np.ndarray], width: int = WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """Tokens and mask, [B, width] each."""
    tokens, mask = np.zeros((len(sequences), width), np.int32), np.zeros((len(sequences), width), bool)
    for row, sequence in enumerate(sequences):
        tokens[row, width - len(sequence) :] = sequence
        mask[row, width - len(sequence) :] = True
    return tokens, mask


def torch_logits(model: Any, sequence: np.ndarray) -> np.ndarray:
    """[S, V] of one sequence."""
    import torch

    with torch.no_grad():
        return model(torch.tensor(np.asarray(sequence))[None]).logits[0].float().numpy()


def our_logits(lm: hub.LanguageModel, sequence: np.ndarray, adapter: lora.Adapter | None = None) -> np.ndarray:
    """[S, V] of one sequence."""
    return np.asarray(forward(lm.params, sequence[None], lm.config, adapters=adapter))[0]


def largest(found: Any, expected: Any) -> float:
    """The largest absolute difference."""
    return float(np.max(np.abs(np.asarray(found, np.float32) - np.asarray(expected, np.float32))))


def logits(model: Any, lm: hub.LanguageModel) -> float:
    """Of one text."""
    sequence = rows()[0]
    return largest(our_logits(lm, sequence), torch_logits(model, sequence))


def padded_logits(model: Any, lm: hub.LanguageModel) -> float:
    """Of a left-padded batch, against each text alone."""
    tokens, mask = left_padded(rows(), WIDTH + NEW_TOKENS)
    ours = np.asarray(forward(lm.params, tokens, lm.config, mask=mask))
    pairs = zip(ours, rows(), strict=True)
    return max(largest(row[-len(sequence) :], torch_logits(model, sequence)) for row, sequence in pairs)


def packed_logits(model: Any, lm: hub.LanguageModel) -> float:
    """Of three texts packed in one row, against each text alone."""
    tokens = np.concatenate([*rows(), np.zeros(3, int)])
    segments = np.repeat([1, 2, 3, 0], [*LENGTHS, 3])
    ours = np.asarray(forward(lm.params, tokens[None], lm.config, segment_ids=segments[None]))
    pairs = enumerate(rows(), start=1)
    return max(largest(ours[0, segments == n], torch_logits(model, sequence)) for n, sequence in pairs)


def states_of_every_layer(model: Any, lm: hub.LanguageModel) -> float:
    """Of the residual stream after each layer."""
    import torch

    sequence = rows()[0]
    seen: list[np.ndarray] = []

    def note(module: Any, inputs: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).detach().numpy().reshape(WIDTH, -1))

    hooks = [layer.register_forward_hook(note) for layer in _layers(model)]
    with torch.no_grad():
        model(torch.tensor(sequence)[None])
    for hook in hooks:
        hook.remove()
    ours = np.asarray(_states(lm.params, sequence[None], lm.config))
    assert len(seen) == len(ours) == lm.config.num_layers
    return max(largest(found[0], expected) for found, expected in zip(ours, seen, strict=True))


@functools.partial(jax.jit, static_argnames="config")
def _states(params: Any, tokens: Any, config: Any) -> jax.Array:
    def read(name: str, layer: jax.Array, x: jax.Array) -> jax.Array | None:
        return x if name == AFTER_LAYER else None

    return read_inputs(params, tokens, config, read)[AFTER_LAYER]


def _layers(model: Any) -> Any:
    """The list of layers, wherever the family keeps it."""
    import torch

    return next(module for module in model.modules() if isinstance(module, torch.nn.ModuleList))


def decoding(model: Any, lm: hub.LanguageModel) -> tuple[float, float]:
    """(share of greedy tokens that differ from generate() of transformers, difference of cached logits from reading
    the same text at once), on a left-padded batch."""
    import torch

    tokens, mask = left_padded(rows())
    kept = model.generation_config.eos_token_id
    model.generation_config.eos_token_id = None  # never stop: compare as many as possible
    with torch.no_grad():
        expected = model.generate(
            torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=0,
        ).numpy()[:, WIDTH:]
    model.generation_config.eos_token_id = kept
    step = jax.jit(functools.partial(decode_step, config=lm.config))
    read = jax.jit(functools.partial(prefill, config=lm.config, cache_size=WIDTH + NEW_TOKENS + 3))
    after, cache = read(lm.params, tokens, mask)
    chosen: list[np.ndarray] = []
    cached: list[np.ndarray] = []
    for _ in range(NEW_TOKENS):
        cached.append(np.asarray(after))
        chosen.append(cached[-1].argmax(axis=-1).astype(np.int32))
        after, cache = step(lm.params, chosen[-1], cache)
    drawn = np.stack(chosen, axis=1)
    whole = np.concatenate([tokens, drawn], axis=1)
    seen = np.concatenate([mask, np.ones_like(drawn, bool)], axis=1)
    at_once = np.asarray(forward(lm.params, whole, lm.config, mask=seen))[:, WIDTH - 1 : -1]
    return float(np.mean(drawn != expected)), largest(np.stack(cached, axis=1), at_once)


def random_adapter(lm: hub.LanguageModel, rank: int = 3, scale: float = 0.2) -> lora.Adapter:
    """An adapter of every linear module that changes the logits clearly."""
    random = np.random.default_rng(4)
    adapter = {}
    for name, (rows, columns) in linear_shapes(lm.config).items():
        a = random.uniform(-(rows**-0.5), rows**-0.5, (lm.config.num_layers, rows, rank))
        b = scale * random.normal(size=(lm.config.num_layers, rank, columns))
        adapter[name] = {"a": a.astype(np.float32), "b": b.astype(np.float32)}
    return jax.device_put(adapter)


def with_peft(model: Any, adapter_folder: Path) -> Any:
    """A copy of the torch model with a PEFT adapter loaded onto it."""
    import copy

    import peft

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of fan_in_fan_out, which it then gets right
        return peft.PeftModel.from_pretrained(copy.deepcopy(model), adapter_folder, is_trainable=True).eval()


def adapter_export(model: Any, lm: hub.LanguageModel, folder: Path) -> float:
    """Of the logits with our adapter, from those that PEFT computes with the folder we wrote."""
    adapter = random_adapter(lm)
    save_peft(folder / "adapter", adapter, lm.config)
    sequence = rows()[0]
    return largest(our_logits(lm, sequence, adapter), torch_logits(with_peft(model, folder / "adapter"), sequence))


def merged_export(model: Any, lm: hub.LanguageModel, folder: Path) -> float:
    """Of the logits with our adapter, from those of transformers with the merged folder we wrote."""
    import transformers

    adapter = random_adapter(lm)
    hub.save(hub.LanguageModel(lm.config, lora.merge_adapter(lm.params, adapter)), folder / "merged")
    merged = transformers.AutoModelForCausalLM.from_pretrained(folder / "merged", attn_implementation="eager").eval()
    sequence = rows()[0]
    return largest(our_logits(lm, sequence, adapter), torch_logits(merged, sequence))


def lora_gradient(model: Any, lm: hub.LanguageModel, folder: Path) -> float:
    """Of the gradient of the mean loss with respect to the factors, from PEFT's on the same adapter.

    The adapter is read back from the folder, as PEFT reads it: a module that fuses several of ours has one input factor
    there, whose gradient is the sum of our parts'.
    """
    import torch

    save_peft(folder / "start", random_adapter(lm, rank=2), lm.config)
    adapter = load_peft(folder / "start", lm.config)
    sequence = rows()[0]
    batch = {
        "tokens": sequence[None].astype(np.int32),
        "segment_ids": np.ones((1, WIDTH), np.int32),
        "weights": np.ones((1, WIDTH), np.float32),
    }

    @jax.jit
    @jax.grad
    def gradient(adapter: lora.Adapter) -> jax.Array:
        total, weight = token_nll(lm.params, batch, lm.config, adapters=adapter)
        return total / weight

    ours = jax.device_get(gradient(adapter))
    theirs = with_peft(model, folder / "start")
    ids = torch.tensor(sequence)[None]
    theirs(ids, labels=ids).loss.backward()
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    differences = []
    for tensor, layer in _linear_tensors(lm.config):
        name = "base_model.model." + tensor.name.format(layer).removesuffix(".weight")
        a = sum(ours[part]["a"][layer] for part in tensor.parts)
        b = tensor.join([ours[part]["b"][layer] for part in tensor.parts], lm.config.head_dim)
        b = b if tensor.flipped else b.T
        differences += [
            largest(a.T, expected[f"{name}.lora_A.default.weight"]),
            largest(b, expected[f"{name}.lora_B.default.weight"]),
        ]
    assert len(differences) == len(expected)
    return max(differences)


def _linear_tensors(config: Any) -> list[tuple[Any, int]]:
    from rr_jax.models.families import model_tensors

    shapes = linear_shapes(config)
    linear = [tensor for tensor in model_tensors(config) if tensor.layered and set(tensor.parts) <= shapes.keys()]
    return [(tensor, layer) for tensor in linear for layer in range(config.num_layers)]


def half_precision(model: Any, folder: Path) -> tuple[float, float]:
    """How far bfloat16 logits are from those of the same (rounded) weights in float32: ours, and those of transformers.

    Root mean square of the difference over that of the logits.
    """
    import copy

    import torch

    half = copy.deepcopy(model).to(torch.bfloat16)
    half.save_pretrained(folder / "half")
    lm = hub.load(folder / "half", "bfloat16")
    sequence = rows()[0]
    exact = torch_logits(copy.deepcopy(half).float(), sequence)
    ours = our_logits(lm, sequence)
    size = np.sqrt(np.mean(exact**2))
    return tuple(float(np.sqrt(np.mean((one - exact) ** 2)) / size) for one in (ours, torch_logits(half, sequence)))


def delta_difference(left: lora.Adapter, right: lora.Adapter) -> float:
    """Of the dense updates of two adapters, formed and compared in float64."""
    assert left.keys() == right.keys()
    one, two = ({name: np.asarray(m["a"], float) @ np.asarray(m["b"], float) for name, m in adapter.items()}
                for adapter in (left, right))  # fmt: skip
    return max(float(np.max(np.abs(one[name] - two[name]))) for name in one)
