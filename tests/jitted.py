"""The model's forward pass as one program: called eagerly, its scan over layers is compiled anew at every call."""

import jax

from rr_jax.models import decoder

forward = jax.jit(decoder.forward, static_argnames="config")
