"""`import interp_arith` is quick, and every public name is there when it is asked for."""

import os
import subprocess
import sys

import pytest

import interp_arith
from interp_arith import models
from interp_arith.commands.app import FIRST_PAGE


def modules_after(code):
    """The modules that a fresh Python has loaded after some code."""
    program = f"import contextlib, io, sys\n{code}\nprint(*sys.modules, sep='\\n')"
    here = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=here
    )
    return set(done.stdout.splitlines())


def test_importing_the_package_imports_no_torch():
    loaded = modules_after("import interp_arith; dir(interp_arith)")
    assert "interp_arith" in loaded
    assert not loaded & {"torch", "numpy", "pydantic", "pandas", "transformer_lens"}


def test_help_imports_neither_torch_nor_pydantic_nor_tyro():
    loaded = modules_after(
        "from interp_arith.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): assert main(['--help']) == 0"
    )
    assert "interp_arith.cli" in loaded
    assert not loaded & {"torch", "numpy", "pydantic", "pandas", "tyro", "rich", "transformer_lens"}


@pytest.mark.parametrize(
    "arguments", [["presets", "mod-ad-113"], ["train", "mod-ad-113"], ["sweep", "no.yaml"]]
)
def test_what_is_misspelt_is_said_before_models_are_imported(arguments):
    loaded = modules_after(
        "from interp_arith.cli import main\n"
        f"with contextlib.redirect_stderr(io.StringIO()): assert main({arguments}) == 2"
    )
    assert "transformer_lens" not in loaded


def test_what_the_explorer_s_first_page_needs_imports_no_transformer_lens_and_no_scikit_learn():
    loaded = modules_after("from interp_arith.commands.app import FIRST_PAGE, warm; warm(FIRST_PAGE)")
    assert {f"interp_arith.{name}" for name in FIRST_PAGE} <= loaded
    assert not loaded & {"transformer_lens", "transformers", "sklearn"}


def test_models_are_there_when_they_are_asked_for_and_not_before():
    code = "from interp_arith import models; models.ModelConfig"
    assert "transformer_lens" not in modules_after(code)
    assert "transformer_lens" in modules_after(f"{code}; models.build_model")
    with pytest.raises(AttributeError, match="no attribute 'grok'"):
        models.grok  # noqa: B018


@pytest.mark.parametrize("name", interp_arith.__all__)
def test_every_public_name_resolves(name):
    assert callable(getattr(interp_arith, name))
    assert name in dir(interp_arith)


def test_presets_is_a_function_even_after_its_module_was_imported():
    first = interp_arith.presets()
    import interp_arith.presets as module

    assert interp_arith.presets() == first == list(module.PRESETS)


def test_public_names_are_sorted_and_each_has_a_home():
    assert interp_arith.__all__ == sorted(interp_arith.__all__)
    assert set(interp_arith.__all__) == set(interp_arith._HOMES)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'grok'"):
        interp_arith.grok  # noqa: B018


def test_from_import_of_an_unknown_name_is_an_import_error():
    with pytest.raises(ImportError):
        from interp_arith import grok  # noqa: F401
