"""The names of `import seqrec`: which there are, what each brings along, and that each is documented."""

import ast
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import seqrec

ROOT = Path(__file__).parents[1]
NAMES = [name for name in dir(seqrec) if name != "__version__"]
OF_EXTRAS = {"duckdb", "narwhals", "tyro", "orbax", "tqdm", "matplotlib", "pandas", "safetensors"}


def modules_after(code: str, *, missing: tuple[str, ...] = ()) -> set[str]:
    """Top-level packages that a fresh interpreter holds after the code, in which `missing` ones cannot be imported."""
    program = f"import sys; sys.modules.update(dict.fromkeys({missing!r}))\n{code}\n"
    program += "print(*{name.partition('.')[0] for name, module in sys.modules.items() if module is not None})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_importing_seqrec_imports_nothing_else():
    assert not modules_after("import seqrec") & (OF_EXTRAS | {"jax", "numpy", "pyarrow", "flax", "scipy"})


def test_a_metric_needs_jax_and_numpy_alone():
    modules = modules_after("from seqrec import ndcg_at_k")
    assert {"jax", "numpy"} <= modules
    assert not modules & (OF_EXTRAS | {"pyarrow", "flax", "optax", "chex"})


def test_all_public_names_work_without_the_extras():
    code = "from seqrec import *; make_train_step, open_store, Seq2SeqConfig"
    assert not modules_after(code, missing=tuple(OF_EXTRAS)) & OF_EXTRAS


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("seqrec.run", "tyro", "run"),
        ("seqrec.runtime", "tyro", "run"),
        ("seqrec.data.preparation", "narwhals", "data"),
    ],
)
def test_a_missing_extra_is_named_in_one_line(module, package, extra):
    program = f"import sys; sys.modules[{package!r}] = None; import {module}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    last_line = done.stderr.strip().splitlines()[-1]
    assert last_line.startswith("ImportError: ")
    assert f'pip install "seqrec[{extra}]"' in last_line


def test_editors_see_the_names_that_there_are():
    stub = ast.parse((ROOT / "seqrec" / "__init__.pyi").read_text())
    imported = {
        f"{statement.module}.{name.name}"
        for statement in stub.body
        if isinstance(statement, ast.ImportFrom)
        for name in statement.names
        if name.name == name.asname
    }
    assert imported == {f"{module}.{name}" for name, module in seqrec._MODULES.items()}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'ndgc'"):
        seqrec.ndgc  # noqa: B018


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_documented(name):
    value = getattr(seqrec, name)
    assert value.__doc__
    assert not value.__doc__.startswith(f"{name}(")  # what Python writes of a dataclass that has none
    if inspect.isfunction(inspect.unwrap(value)):
        assert ">>>" in value.__doc__


def test_the_api_page_lists_every_public_name_once():
    page = (ROOT / "docs" / "api.md").read_text()
    listed = [line.removeprefix("::: seqrec.") for line in page.splitlines() if line.startswith("::: ")]
    assert sorted(name for name in listed if "." not in name) == sorted(NAMES)
