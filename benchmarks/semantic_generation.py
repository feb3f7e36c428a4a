"""Times a beam over codes that only writes items which exist, against one that writes any code, and a trie on the host.

    python benchmarks/semantic_generation.py --json semantic_generation.json

Rounds of all alternate: read the ratios of CPU seconds, which hold between machines and while others work on one.
"""

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
from seqrec.heads.code_probabilities import after_code, code_log_probabilities, depth_decoder_specs
from seqrec.heads.code_search import CODES, PARAMS, TREE
from seqrec.heads.depth_decoder import DepthDecoder, DepthDecoderConfig
from seqrec.params import Params, init_params
from seqrec.prefix_tree import PrefixTree, candidate_scores, chosen_children, prefix_tree
from seqrec.sharding import MeshConfig
from seqrec.types import InputError


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
    print(f"{'items':>12}{'beam ms':>10}{'free ms':>10}{'overhead':>10}{'trie x':>10}{'MB':>8}{'MB a million':>14}")
    for n_items in config.n_items:
        each = measure(config, n_items)
        result["catalogues"][str(n_items)] = each
        print(
            f"{n_items:12,}{each['beam_cpu_ms']:10.1f}{each['free_cpu_ms']:10.1f}{each['overhead']:10.1%}"
            f"{each['trie_ratio']:10.1f}{each['mb']:8.1f}{each['mb_per_million']:14.1f}"
        )
    if config.json:
        write_json(config.json, result)
    return result


def measure(config: Config, n_items: int) -> dict[str, float]:
    """Milliseconds of CPU of a batch under a beam with and without the tree, of the tree's part and of a trie's."""
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
    head = DepthDecoder(n_items, DepthDecoderConfig(beam_width=config.beam_width))
    states = jax.random.normal(jax.random.key(1), (config.n_users, config.d_model))
    beam = jax.jit(lambda params, states: head.top_k(params, states, k=min(config.beam_width, n_items)))
    free = jax.jit(lambda params, states: free_beam(params[PARAMS], states, width=config.beam_width))
    steps_of_tree, (prefixes, steps) = jax.jit(walk), beams_of(tree, codes, beam(params, states)[0])
    trie = trie_of(tree)
    programs: dict[str, Callable[[], Any]] = {
        "beam": lambda: beam(params, states),
        "free": lambda: free(params, states),
        "tree": lambda: steps_of_tree(tree, steps),
        "trie": lambda: trie_masks(config, trie, prefixes),
    }
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(config.n_rounds + 1):  # the first compiles
        for name, program in programs.items():
            before = time.process_time()
            jax.block_until_ready(program())
            seconds[name].append(1e3 * (time.process_time() - before))
    ms = {f"{name}_cpu_ms": float(np.median(each[1:])) for name, each in seconds.items()}
    return {
        **ms,
        "overhead": float(np.median(np.divide(seconds["beam"][1:], seconds["free"][1:]))) - 1.0,
        "trie_ratio": ms["trie_cpu_ms"] / ms["tree_cpu_ms"],
        "mb": tree.n_bytes / 1e6,
        "mb_per_million": tree.n_bytes / n_items,
        "seconds_to_build": seconds_to_build,
        "forms": [0 if level.bits is None else 1 for level in tree.levels],
    }


def _distinct(random: np.random.Generator, n_most: int, n: int) -> np.ndarray:
    numbers = np.unique(random.integers(0, n_most, n + n // 2 + 64))
    return numbers if len(numbers) <= n else random.permutation(numbers)[:n]


def free_beam(decoder_params: Params, states: jax.Array, *, width: int) -> tuple[jax.Array, jax.Array]:
    """The beam of `DepthDecoder` where any code may follow any other."""
    n_users = len(states)
    logs, states, chosen = jnp.zeros((n_users, 1)), states[:, None], jnp.zeros((n_users, 1), jnp.int32)
    for depth, table in enumerate(decoder_params["codes"]):
        scores = (logs[..., None] + code_log_probabilities(decoder_params, depth, states)).reshape(n_users, -1)
        logs, best = jax.lax.top_k(jnp.where(jnp.isnan(scores), -jnp.inf, scores), min(width, scores.shape[1]))
        beams, chosen = best // len(table), best % len(table)
        states = after_code(decoder_params, depth, jnp.take_along_axis(states, beams[..., None], axis=1), chosen)
    return chosen, logs


def walk(tree: PrefixTree, steps: list[tuple[jax.Array, jax.Array]]) -> Any:
    """What the tree adds to each step of a beam: which candidates there are, and which children the chosen ones are."""
    outputs = []
    for level, (nodes, chosen) in zip(tree.levels, steps, strict=True):
        scores = candidate_scores(level, nodes, jnp.zeros((*nodes.shape, level.n_codes)))
        outputs.append((jnp.max(scores, axis=-1), chosen_children(level, nodes, chosen)))
    return outputs


Prefixes = list[list[list[tuple[int, ...]]]]
"""Of each level, of each user, of each beam."""


def beams_of(
    tree: PrefixTree, codes: np.ndarray, items: jax.Array
) -> tuple[Prefixes, list[tuple[jax.Array, jax.Array]]]:
    """Prefixes of the items that a beam found, before each level; and their nodes in the tree, with what was chosen."""
    listed = np.maximum(np.asarray(items), 1)
    child = np.asarray(tree.leaves)[listed]
    steps: list[tuple[jax.Array, jax.Array]] = []
    prefixes: Prefixes = []
    for depth in reversed(range(len(tree.levels))):
        level, n_beams = tree.levels[depth], 1 if depth == 0 else listed.shape[1]
        node = np.asarray(level.parents)[child]
        chosen = np.asarray(level.codes)[child] if level.bits is not None else child - np.asarray(level.starts)[node]
        steps.insert(0, (jnp.asarray(node[:, :n_beams]), jnp.asarray(chosen[:, :n_beams].astype(np.int32))))
        rows = codes[listed[:, :n_beams], :depth]
        prefixes.insert(0, [[tuple(beam) for beam in user] for user in rows.tolist()])
        child = node
    return prefixes, steps


def trie_of(tree: PrefixTree) -> dict[tuple[int, ...], list[int]]:
    """The codes that may follow each prefix, in a dictionary, as hosts constrain beams."""
    trie: dict[tuple[int, ...], list[int]] = {}
    prefixes: list[tuple[int, ...]] = [()]
    for depth, level in enumerate(tree.levels):
        starts, codes = np.asarray(level.starts), np.asarray(level.codes)
        following = [codes[starts[node] : starts[node + 1]].tolist() for node in range(len(prefixes))]
        trie.update(zip(prefixes, following, strict=True))
        if depth < len(tree.levels) - 1:
            each = zip(prefixes, following, strict=True)
            prefixes = [(*prefix, code) for prefix, codes_of_prefix in each for code in codes_of_prefix]
    return trie


def trie_masks(config: Config, trie: dict[tuple[int, ...], list[int]], prefixes: Prefixes) -> list[np.ndarray]:
    """A mask over the codes of a level for each beam, filled on the host beam by beam."""
    masks = []
    for level in prefixes:
        mask = np.full((len(level), len(level[0]), config.n_codes), -np.inf, np.float32)
        for user, beams in enumerate(level):
            for beam, prefix in enumerate(beams):
                mask[user, beam, trie[prefix]] = 0.0
        masks.append(mask)
    return masks


if __name__ == "__main__":
    runtime.run_script(main, Config)
