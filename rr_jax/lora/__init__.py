"""Low-rank adapters: pytrees of factors, exact arithmetic on them, and how far two of them overlap."""

from typing import TYPE_CHECKING

from rr_jax.lazy import names_of

if TYPE_CHECKING:
    from rr_jax.lora.activations import Directions, dominant_directions, output_energy
    from rr_jax.lora.adapter import init_adapter, merge_adapter, scale_adapter, stack_adapters, unstack_adapter
    from rr_jax.lora.algebra import (
        add,
        at_strengths,
        compact,
        delta_weight,
        ext_sub,
        frobenius_norm,
        inner_product,
        merge_error,
        negate,
        pem_factor_rule,
        rank,
        recompress,
    )
    from rr_jax.lora.config import AdapterConfig
    from rr_jax.lora.orthogonality import (
        activation_penalty,
        frobenius_penalty,
        input_angles_penalty,
        normalized_penalty,
        olora_penalty,
        output_angles_penalty,
        overlap_by_layer,
        principal_cosines_by_layer,
        project_out,
        update_cosine_by_layer,
        update_penalty,
    )
    from rr_jax.lora.peft import load_peft, save_peft
    from rr_jax.models.spec import Adapter

__all__ = [
    "Adapter",
    "AdapterConfig",
    "Directions",
    "activation_penalty",
    "add",
    "at_strengths",
    "compact",
    "delta_weight",
    "dominant_directions",
    "ext_sub",
    "frobenius_norm",
    "frobenius_penalty",
    "init_adapter",
    "inner_product",
    "input_angles_penalty",
    "load_peft",
    "merge_adapter",
    "merge_error",
    "negate",
    "normalized_penalty",
    "olora_penalty",
    "output_angles_penalty",
    "output_energy",
    "overlap_by_layer",
    "pem_factor_rule",
    "principal_cosines_by_layer",
    "project_out",
    "rank",
    "recompress",
    "save_peft",
    "scale_adapter",
    "stack_adapters",
    "unstack_adapter",
    "update_cosine_by_layer",
    "update_penalty",
]
__getattr__, __dir__ = names_of(__name__, __file__)
