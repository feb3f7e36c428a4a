"""Times a beam over codes that only writes items which exist, against one that writes any code, and a trie on the host.

    python benchmarks/semantic_generation.py --json semantic_generation.json

`trie x` compares what the constraint alone costs for the same beams: in arrays, and as masks from a trie of Python
dictionaries. `host x` compares whole beams, whose decoder takes the same time in both.
Rounds of all alternate: read the ratios of CPU seconds, which hold between machines and while others work on one.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqrec import runtime
from seqrec.config import check_at_least, check_fields, to_json
from seqrec.files import write_json
from seqrec.heads.code_probabilities import after_code, code_scores, depth_decoder_specs
from seqrec.heads.code_search import CODES, PARAMS, TREE, SearchSizes, finite, users_at_once
from seqrec.heads.depth_decoder import DepthDecoder, DepthDecoderConfig
from seqrec.params import Params, init_params
from seqrec.prefix_tree import PrefixTree, candidate_scores, chosen_children, prefix_tree
from seqrec.retrieval import user_blocks
from seqrec.sharding import MeshConfig
from seqrec.types import InputError

SETTLING_SECONDS = 0.02
"""Pause before each timed call: threads of the call before wait for work a while, and their CPU time would be added."""


@dataclass(frozen=True)
class Config:
    """Times constrained beams over catalogues of random codes."""

    n_items: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    """Sizes of the catalogues."""
    n_codes: int = 256
    """Codes of a level."""
    n_levels: int = 3
    """Levels of codes."""
    d_model: int = 64
    """Width of states."""
    beam_width: int = 50
    """Prefixes that the beam keeps."""
    n_users: int = 128
    """States that are decoded at a time."""
    n_rounds: int = 9
    """Timed rounds; medians are reported."""
    json: Path | None = None
    """JSON file to write the figures to."""

    def __post_init__(self):
        check_fields(self)
        check_at_least(self, 1, "n_codes", "n_levels", "d_model", "beam_width", "n_users", "n_rounds")
        if (most := self.n_codes**self.n_levels) < max(self.n_items):
            raise ValueError(f"n_items={max(self.n_items)} is above {most}, the codes that there are; add --n-levels 4")


def main(config: Config) -> dict[str, Any]:
    """Prints a line for each catalogue and returns all figures."""
    runtime.start(MeshConfig())
    if 0 in config.n_items:
        raise InputError("n_items=0 is no catalogue; give sizes of at least 1")
    result: dict[str, Any] = {"catalogues": {}, "config": to_json(config), "versions": runtime.versions()}
    names = ("beam ms", "free ms", "overhead", "tree ms", "trie ms", "trie x", "host x")
    print(f"{'items':>12}{''.join(f'{name:>10}' for name in names)}{'MB':>8}{'MB a million':>14}")
    for n_items in config.n_items:
        each = measure(config, n_items)
        result["catalogues"][str(n_items)] = each
        print(
            f"{n_items:12,}{each['beam_cpu_ms']:10.1f}{each['free_cpu_ms']:10.1f}{each['overhead']:10.1%}"
            f"{each['tree_cpu_ms']:10.1f}{each['trie_cpu_ms']:10.1f}{each['trie_ratio']:10.1f}{each['host_ratio']:10.1f}"
            f"{each['mb']:8.1f}{each['mb_per_million']:14.1f}"
        )
    if config.json:
        write_json(config.json, result)
    return result


def measure(config: Config, n_items: int) -> dict[str, float]:
    """Milliseconds of CPU of a batch: of beams with the tree, free and with a trie on the host, and of the constraint.

    The tree alone and the trie alone answer for the same prefixes.
    """
    sizes, random = (config.n_codes,) * config.n_levels, np.random.default_rng(0)
    n_most = config.n_codes**config.n_levels
    each = random.choice(n_most, n_items, replace=False) if 2 * n_items > n_most else _distinct(random, n_most, n_items)
    codes = np.zeros((n_items + 1, config.n_levels), np.int32)
    codes[1:] = np.stack(np.unravel_index(each, sizes), axis=1)
    started = time.process_time()
    tree = prefix_tree(codes, sizes)
    seconds_to_build = time.process_time() - started
    tree = jax.tree.map(jnp.asarray, tree)
    decoder_params = init_params(depth_decoder_specs(sizes, config.d_model), jax.random.key(0))
    decoder_params = jax.tree.map(lambda leaf: 10 * leaf if leaf.ndim == 2 else leaf, decoder_params)
    params = {PARAMS: decoder_params, TREE: tree, CODES: jnp.zeros((1, config.n_levels), jnp.uint8)}
    head, width = DepthDecoder(n_items, DepthDecoderConfig(beam_width=config.beam_width)), config.beam_width
    states = jax.random.normal(jax.random.key(1), (config.n_users, config.d_model))
    block = users_at_once(config.n_users, tree, SearchSizes(n_items, config.d_model, width, has_leaf_scores=False))
    beam = jax.jit(lambda params, states: head.top_k(params, states, k=min(width, n_items)))
    # In the same blocks of users as the beam, since smaller ones stay in the caches.
    free_block = functools.partial(free_beam, width=width)
    free = jax.jit(lambda params, states: user_blocks(free_block, states, params[PARAMS], block=block))
    step = jax.jit(functools.partial(beam_step, width=width), static_argnums=1)
    steps_of_tree, (prefixes, steps) = jax.jit(walk), beams_of(tree, codes, beam(params, states)[0])
    scores = [jax.random.normal(jax.random.key(2), (*nodes.shape, config.n_codes)) for nodes, _ in steps]
    trie = trie_of(tree)
    programs: dict[str, Callable[[], Any]] = {
        "beam": lambda: beam(params, states),
        "free": lambda: free(params, states),
        "host": lambda: host_beam(step, params[PARAMS], states, trie),
        "tree": lambda: steps_of_tree(tree, steps, scores),
        "trie": lambda: [trie_masks(trie, level, config.n_codes) for level in prefixes],
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(config.n_rounds + 1):  # the first compiles
        for name, program in programs.items():
            time.sleep(SETTLING_SECONDS)
            before = time.process_time()
            jax.block_until_ready(program())
            seconds[name].append(1e3 * (time.process_time() - before))
    ms = {f"{name}_cpu_ms": float(np.median(each[1:])) for name, each in seconds.items()}
    return {
        **ms,
        "overhead": float(np.median(np.divide(seconds["beam"][1:], seconds["free"][1:]))) - 1.0,
        "trie_ratio": ms["trie_cpu_ms"] / ms["tree_cpu_ms"],
        "host_ratio": ms["host_cpu_ms"] / ms["beam_cpu_ms"],
        "mb": tree.n_bytes / 1e6,
        "mb_per_million": tree.n_bytes / n_items,
        "seconds_to_build": seconds_to_build,
        "forms": [0 if level.bits is None else 1 for level in tree.levels],
    }


def _distinct(random: np.random.Generator, n_most: int, n: int) -> np.ndarray:
    numbers = np.unique(random.integers(0, n_most, n + n // 2 + 64))
    return numbers if len(numbers) <= n else random.permutation(numbers)[:n]


def beam_step(
    decoder_params: Params, depth: int, logs: jax.Array, states: jax.Array, masks: Any = None, *, width: int
) -> tuple[jax.Array, ...]:
    """One level of the beam of `DepthDecoder`: log-probabilities and states of the new beams, parents and codes.

    `masks`, where given, are added to the scores of each beam's codes.
    """
    scores = logs[..., None] + jax.nn.log_softmax(code_scores(decoder_params, depth, states), axis=-1)
    scores, n_codes = scores if masks is None else scores + masks, scores.shape[-1]
    flat = finite(scores).reshape(len(scores), -1)
    logs, best = jax.lax.top_k(flat, min(width, flat.shape[1]))
    parents, codes = best // n_codes, best % n_codes
    return logs, after_code(decoder_params, depth, along(states, parents), codes), parents, codes


def along(each: jax.Array, parents: jax.Array) -> jax.Array:
    """What is kept of each beam, of the parents of new beams."""
    return jnp.take_along_axis(each, parents[..., None], axis=1)


def free_beam(states: jax.Array, decoder_params: Params, *, width: int) -> tuple[jax.Array, jax.Array]:
    """Codes and log-probabilities that a beam finds where any code may follow any other."""
    n_users = len(states)
    logs, states, prefixes = jnp.zeros((n_users, 1)), states[:, None], jnp.zeros((n_users, 1, 0), jnp.int32)
    for depth in range(len(decoder_params["codes"])):
        logs, states, parents, codes = beam_step(decoder_params, depth, logs, states, width=width)
        prefixes = jnp.concatenate([along(prefixes, parents), codes[..., None]], axis=-1)
    return prefixes, logs


def walk(tree: PrefixTree, steps: list[tuple[jax.Array, jax.Array]], scores: list[jax.Array]) -> Any:
    """What the tree adds to each step of a beam: which candidates there are, and which children the chosen ones are."""
    return [
        (candidate_scores(level, nodes, each), chosen_children(level, nodes, chosen))
        for level, (nodes, chosen), each in zip(tree.levels, steps, scores, strict=True)
    ]


Trie = dict[tuple[int, ...], list[int]]
Prefixes = list[list[tuple[int, ...]]]
"""Of each user, of each beam."""


def beams_of(
    tree: PrefixTree, codes: np.ndarray, items: jax.Array
) -> tuple[list[Prefixes], list[tuple[jax.Array, jax.Array]]]:
    """Prefixes of the items that a beam found, before each level; and their nodes in the tree, with what was chosen."""
    listed = np.maximum(np.asarray(items), 1)
    child = np.asarray(tree.leaves)[listed]
    steps: list[tuple[jax.Array, jax.Array]] = []
    prefixes: list[Prefixes] = []
    for depth in reversed(range(len(tree.levels))):
        level, n_beams = tree.levels[depth], 1 if depth == 0 else listed.shape[1]
        node = np.asarray(level.parents)[child]
        chosen = np.asarray(level.codes)[child] if level.bits is not None else child - np.asarray(level.starts)[node]
        steps.insert(0, (jnp.asarray(node[:, :n_beams]), jnp.asarray(chosen[:, :n_beams].astype(np.int32))))
        rows = codes[listed[:, :n_beams], :depth]
        prefixes.insert(0, [[tuple(beam) for beam in user] for user in rows.tolist()])
        child = node
    return prefixes, steps


def trie_of(tree: PrefixTree) -> Trie:
    """The codes that may follow each prefix, in a dictionary, as hosts constrain beams."""
    trie: Trie = {}
    prefixes: list[tuple[int, ...]] = [()]
    for depth, level in enumerate(tree.levels):
        starts, codes = np.asarray(level.starts), np.asarray(level.codes)
        following = [codes[starts[node] : starts[node + 1]].tolist() for node in range(len(prefixes))]
        trie.update(zip(prefixes, following, strict=True))
        if depth < len(tree.levels) - 1:
            each = zip(prefixes, following, strict=True)
            prefixes = [(*prefix, code) for prefix, codes_of_prefix in each for code in codes_of_prefix]
    return trie


def trie_masks(trie: Trie, prefixes: Prefixes, n_codes: int) -> np.ndarray:
    """A mask over the codes of a level for each beam, filled on the host beam by beam."""
    mask = np.full((len(prefixes), len(prefixes[0]), n_codes), -np.inf, np.float32)
    for user, beams in enumerate(prefixes):
        for beam, prefix in enumerate(beams):
            mask[user, beam, trie.get(prefix, [])] = 0.0
    return mask


def host_beam(step: Callable[..., Any], decoder_params: Params, states: jax.Array, trie: Trie) -> tuple[Prefixes, Any]:
    """Codes and log-probabilities that a beam finds whose masks the host fills between two steps of the device."""
    logs, states = jnp.zeros((len(states), 1)), states[:, None]
    prefixes: Prefixes = [[()] for _ in range(len(states))]
    for depth, table in enumerate(decoder_params["codes"]):
        masks = trie_masks(trie, prefixes, len(table))
        logs, states, parents, codes = step(decoder_params, depth, logs, states, masks)
        chosen = zip(prefixes, np.asarray(parents).tolist(), np.asarray(codes).tolist(), strict=True)
        prefixes = [[(*own[parent], code) for parent, code in zip(*rows, strict=True)] for own, *rows in chosen]
    return prefixes, logs


if __name__ == "__main__":
    runtime.run_script(main, Config)
