"""Facts about the benchmarks for TPUs and GPUs that need neither."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import gpu
import tpu_compile
import tpu_programs

from seqrec.files import read_json


def test_collectives_of_a_program_are_counted_with_what_they_yield():
    program = """
      %a = f32[8,4]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,1}}
      %b = (bf16[10]{0}, s32[]) all-reduce-start(%y), channel_id=1, replica_groups={{0,1}}
      %c = f32[8,4]{1,0} all-reduce-done(%b)
      %d = pred[100]{0} all-gather(%param_0.1), channel_id=3, dimensions={0}
      %e = pred[100]{0} all-gather(%param_0.7), channel_id=3, dimensions={0}
    """
    assert tpu_compile.collectives(program) == {
        "all-reduce": {"count": 2, "megabytes": pytest.approx((8 * 4 * 4 + 10 * 2 + 4) / 1e6)},
        "all-gather": {"count": 1, "megabytes": pytest.approx(100 / 1e6)},
    }


def test_the_page_about_scaling_holds_the_table_of_its_file():
    root = Path(__file__).parents[1]
    result = read_json(root / "benchmarks" / "results" / "tpu-compile.json")
    for name, make in tpu_compile.TABLES.items():
        before, after = tpu_compile.markers(name)
        assert f"{before}\n{make(result)}\n{after}" in (root / "docs" / "scaling.md").read_text()


def test_a_narrow_array_of_rows_is_half_padding_on_a_tpu():
    program = """
      %a = f32[1024,64]{1,0:T(8,128)} copy(%x), metadata={}
      %b = f32[1024,64]{0,1:T(8,128)} copy(%x)
      %c = bf16[1024,64]{1,0:T(8,128)(2,1)} fusion(%a), kind=kLoop
      %d = f32[1024,128]{1,0:T(8,128)} scatter(%a, %y, %z)
      %e = f32[1024,64]{1,0:T(8,128)} parameter(0)
      %f = f32[1024,64]{1,0:T(8,128)} scatter(%a, %y, %z)
    """
    mib = 1 / 1024
    assert tpu_compile.padded_arrays(program, least_gib=0.1 * mib) == {
        "f32[1024,64]{1,0:T(8,128)}": {"count": 2, "gib": 0.5 * mib, "numbers_gib": 0.25 * mib},
        "bf16[1024,64]{1,0:T(8,128)(2,1)}": {"count": 1, "gib": 0.25 * mib, "numbers_gib": 0.125 * mib},
    }
    assert tpu_compile.padded_arrays(program, least_gib=1.0) == {}


def test_a_part_that_fails_on_a_gpu_leaves_its_error_and_the_others_their_figures(tmp_path, monkeypatch):
    def broken(config):
        yield "small", {"program": 1.0}
        raise RuntimeError("no memory\nat all")

    monkeypatch.setitem(gpu.PARTS, "steps", broken)
    parts = ("steps", "attention", "losses", "ranks")
    result = gpu.main(gpu.Config(parts=parts, toy=True, n_rounds=1, json=tmp_path / "out.json"))
    assert result["steps"] == {"small": {"program": 1.0}, "error": "RuntimeError: no memory"}
    own = {"attention": ("layers", "xla"), "losses": ("full", "full, naive", "sampled"), "ranks": ("ranks", "top-k")}
    for part, programs in own.items():
        (figures,) = result[part].values()
        assert all(figures[name] > 0 for name in programs)
    assert read_json(tmp_path / "out.json") == result
    assert "left_out" in gpu.main(gpu.Config(parts=("ranks",), toy=True, seconds=0.0))["ranks"]


def test_a_table_is_split_over_as_few_chips_as_hold_it():
    # Five tables of 256 bytes an item, in half of a chip's 16 GB: 6.25 million items a chip.
    sizes = [tpu_programs.group_size(int(n), 64, n_chips=64, chip_bytes=16e9) for n in (1e6, 6.2e6, 6.3e6, 2e7, 1e12)]
    assert sizes == [1, 1, 2, 4, 64]
