"""Removes what trainers wrap a model's weights in: containers of a saved dict, and prefixes of names.

Containers are what a script saves: `{"model": …, "ema": …, "optimizer": …}`. Prefixes are what wrapping modules add to
every name: DDP's `module.`, torch.compile's `_orig_mod.`, FSDP's, Lightning's attribute `model.`. Both occur in any
order and depth. Averaged weights are preferred, as the authors' own samplers do.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

T = TypeVar("T")

EMA = ("ema_model_state_dict", "model_ema_state_dict", "ema_state_dict", "state_dict_ema", "ema_model", "model_ema")
EMA += ("ema_network", "ema_net", "net_ema", "ema_unet", "unet_ema", "ema_params", "params_ema", "ema_weights")
EMA += ("ema_state", "ema", "EMA", "g_ema", "G_ema", "shadow", "averaged_model")
"""What averaged weights are called, most specific first."""

PLAIN = (
    "model",
    "state_dict",
    "model_state_dict",
    "model_state",
    "model_weights",
    "net",
    "network",
    "params",
    "module",
)
PLAIN += ("weights", "online_model", "unet", "unet_state_dict", "generator")
"""What trained weights are called."""

WRAPPINGS = EMA + PLAIN
"""Names of containers, in order of preference: DiT and LlamaGen save both `ema` and `model`."""

PREFIXES = (*EMA, "module", "model", "net", "network", "_model", "state_dict", "online_model", "diffusion_model")
"""First parts of names that wrapping modules add, in the same order."""

INSIDE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "_ddp_module")
"""Parts that torch.compile, FSDP, activation checkpointing and Lightning Fabric add anywhere in a name; no layout has
them."""

_BOOKKEEPING = re.compile(
    r"(n_averaged|initted|step|num_updates|decay|scale_factor|betas|alphas_cumprod(_prev)?|logvar|lvlb_weights"
    r"|(p2_)?loss_weight|(sqrt|log|posterior)_\w+)\Z"
)
"""Counters of averages and tables of noise schedules, which wrapping modules register next to the model itself."""

MAX_DEPTH = 32


def without_prefixes(weights: Mapping[str, T], notes: list[str]) -> dict[str, T]:
    """The weights under the names that the model itself has.

    A prefix is removed if all names begin with one; if several do, averaged weights are taken and completed from the
    others, since averages often leave out buffers.
    """
    weights = _without_inner_parts(weights, notes)
    for _ in range(MAX_DEPTH):
        kept = {name: value for name, value in weights.items() if not _BOOKKEEPING.match(name)}
        firsts = {name.partition(".")[0] for name in kept}
        known = [prefix for prefix in PREFIXES if prefix in firsts]
        if not known or len(known) < len(firsts) or not all("." in name for name in kept):
            break
        chosen = within(kept, known[0])
        others = [without_prefixes(within(kept, prefix), []) for prefix in known[1:]]
        if others and (
            known[0] not in EMA or not any(without_prefixes(chosen, []).keys() <= other.keys() for other in others)
        ):
            break  # parts of one model that have such names
        left = [f"{prefix}.*" for prefix in known[1:]] + [name for name in weights if name not in kept]
        notes.append(
            f"removed the prefix '{known[0]}.' from all names"
            if not left
            else f"used '{known[0]}.*', left {', '.join(left[:6])}" + (f" and {len(left) - 6} more" * (len(left) > 6))
        )
        weights = complete(without_prefixes(chosen, notes), others, notes) if others else chosen
    return dict(weights)


def _without_inner_parts(weights: Mapping[str, T], notes: list[str]) -> dict[str, T]:
    result: dict[str, T] = {}
    removed: dict[str, None] = {}
    for name, value in weights.items():
        parts = name.split(".")
        rest = [part for part in parts if part not in INSIDE]
        removed |= dict.fromkeys(part for part in parts if part in INSIDE)
        if (short := ".".join(rest)) in result:
            raise ValueError(f"two tensors have the name '{short}' without {', '.join(removed)}")
        result[short] = value
    notes.extend(
        f"removed the prefix '{part}.' from all names"
        if all(name.startswith(f"{part}.") for name in weights)
        else f"removed '{part}.' from the names"
        for part in removed
    )
    return result


def complete(chosen: Mapping[str, T], others: Sequence[Mapping[str, T]], notes: list[str]) -> dict[str, T]:
    """Averaged weights with what only the trained ones have: averages of parameters leave out buffers."""
    result = dict(chosen)
    for other in others:
        if chosen.keys() <= other.keys() and (missing := other.keys() - result.keys()):
            notes.append(f"took {len(missing)} tensors that are not averaged from the trained weights")
            result |= {name: other[name] for name in missing}
    return result


def within(weights: Mapping[str, T], prefix: str) -> dict[str, T]:
    """The weights whose names begin with `prefix.`, without it."""
    prefix += "."
    return {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}


def parts(weights: Mapping[str, T]) -> Iterator[tuple[tuple[str, ...], dict[str, T]]]:
    """Weights of parts that may be the model: a Lightning module has its losses and metrics next to `model`.

    Yields:
        The notes about a part, and its weights.
    """
    for prefix in PREFIXES:
        if part := within(weights, prefix):
            notes = [f"used '{prefix}.*'"]
            part = without_prefixes(part, notes)
            yield tuple(notes), part


def choose(entries: Mapping[str, T], has_names: Callable[[T], bool]) -> Sequence[str]:
    """The containers in a saved dict, the preferred one first; only those with tensors that have names."""
    return [key for key in WRAPPINGS if key in entries and has_names(entries[key])]
