"""The example of docs/add_an_encoder.md is code that works: it passes what every encoder must, and learns."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
from conftest import CHAIN_FLAGS

from seqrec import runtime

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "add_an_encoder.md").read_text()
BLOCKS = re.findall(r"as `(\S+?)\.py`.*?```python\n(.*?)```", PAGE, re.DOTALL)

sys.path.append(str(ROOT / "tests" / "encoders"))

import an_encoder  # noqa: E402 (the line above makes it findable)
import test_every_encoder  # noqa: E402


@pytest.fixture(scope="module")
def modules(tmp_path_factory):
    """The page's model and script, imported under the names that the page gives them."""
    directory, modules = tmp_path_factory.mktemp("example"), []
    with pytest.MonkeyPatch.context() as patch:
        for path, code in BLOCKS:
            file = directory / f"{path.replace('/', '_')}.py"
            file.write_text(code)
            name = path.removeprefix("experiments/").replace("/", ".")
            spec = importlib.util.spec_from_file_location(name, file)
            module = importlib.util.module_from_spec(spec)
            patch.setitem(sys.modules, name, module)
            spec.loader.exec_module(module)
            modules.append(module)
        yield modules


def test_the_page_has_a_model_and_a_script_of_under_a_hundred_lines():
    assert [path for path, _ in BLOCKS] == ["seqrec/encoders/convolution", "experiments/convolution"]
    assert sum(len(code.splitlines()) for _, code in BLOCKS) < 100


@pytest.mark.parametrize("name", [name for name in vars(test_every_encoder) if name.startswith("test_")])
def test_the_example_passes_what_every_encoder_must(name, modules, monkeypatch):
    model, _ = modules
    # As the page says it, word for word.
    entry = re.search(r'`"convolution": (\(.*?\))`', PAGE)[1]
    monkeypatch.setitem(an_encoder.ENCODERS, "convolution", eval(entry, vars(model)))
    vars(test_every_encoder)[name]("convolution")


def test_the_example_learns_a_chain(modules, chain, tmp_path):
    _, script = modules
    flags = ("--dataset", "s3rec", "--data-path", str(chain), *CHAIN_FLAGS, "--max-epochs", "8")
    results = script.main(runtime.parse(script.Config, [*flags, "--output", str(tmp_path / "run")]))
    best_of_popularity = results["baselines"]["popularity"]["intervals"]["ndcg@10"][1]
    assert results["test"]["intervals"]["ndcg@10"][0] > best_of_popularity
