"""The house rules that a machine can check: who imports whom, sizes, docstrings, where draws and file names live."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "interp_arith"
MOST_LINES = 400

LAYERS = """
    errors shapes cards registry files lazy arrays storage
    tasks.digits tasks.columns tasks.sampling tasks.class_draws tasks.tokenizer tasks.base tasks.pairs
    tasks.modular tasks.permutations tasks.layout tasks.scratchpad tasks.spelling tasks.addition tasks.lengths
    tasks.text tasks tasks.sources tasks.scoring
    models.position_scheme models.digit_positions models.positions models.config models.patterns
    models.rounding models.lookup models.layer models.folded models.lean models.single models.neuron_kernels
    models.fused models.stacked
    models models.attention models.hooked_parts models.transformer models.imported models.cached
    training.optimizers training.schedules training.curricula training.config training.machine
    training.side_by_side training.ensemble training.batches training.step training.compiled training.recorded
    training.checkpoints
    training.measuring training.lanes training.writer training.signals training.sinks training.trainer training
    adder_presets
    presets
    evaluation.decoding evaluation.base evaluation.asking evaluation.adders evaluation.protocols evaluation
    interp.base interp.phases interp.bootstrap interp.forward interp.answers interp.cyclic interp.fourier
    interp.keys interp.neurons interp.losses interp.spectra interp.progress interp.clock_pizza interp.attention
    interp.learning_coefficient interp.nodes interp.roles interp.logit_lens interp.discriminants
    interp.column_labels interp.probes interp.geometry interp.pictures
    interp.interventions interp.pairs interp.patching interp.ablation interp.circuits
    interp.mean_held interp.digit_circuits interp.class_accuracy interp.carry_use interp.measures
    interp.trajectory interp.live interp.activations interp.one_question interp.switches interp
    figures.curves figures.panels figures.sweeps figures.progress figures.frequencies figures.attention_grids
    figures.lengths figures.adders figures.circuits figures.questions figures
    bars kept kept_activations run_card run runs comparison report_adders report
    generation tables overrides importing grid workers sweep_results sweep
    commands.parsing commands.presets commands.train commands.evaluate commands.generate commands.data
    commands.inspect_data commands.runs commands.sweep commands.import_weights commands.measure commands.report
    commands.app commands cli
"""
"""Every module, each below all that it may import."""
ROOMS = LAYERS.split()

FILES_OF_A_RUN = (
    "config.yaml",
    "run.json",
    "metrics.jsonl",
    "checkpoints.jsonl",
    "best.json",
    "split.npy",
    "train.log",
    "curves.html",
    ".lock",
    ".safetensors",
)
ONLY_STORAGE_MAY_SAY = re.compile(
    "|".join(rf"(?:^|/){re.escape(n)}$|^{re.escape(n)}$" for n in FILES_OF_A_RUN)
)
NAMED_ELSEWHERE = {"training.checkpoints": {"split.npy"}}
"""The one thing that may stand where a run begins."""
DRAWS = re.compile(
    r"^(np|numpy)\.random\b|^torch\.(rand|randn|randint|randperm|normal|bernoulli|multinomial|manual_seed|Generator)\b"
    r"|^random\b"
)
DRAWS_WITH_A_GENERATOR_PASSED_IN = {
    "models.transformer": {"torch.randn", "torch.multinomial", "torch.Generator"},
    "training.lanes": {"torch.Generator"},
    "interp.learning_coefficient": {"torch.randn", "torch.Generator"},
    "interp.one_question": {"torch.Generator"},
    "generation": {"torch.Generator"},
}
"""Outside tasks/sampling.py: weights, next tokens, walks, drawn from the generator that the caller gives or seeds."""


def name_of(file: Path) -> str:
    """ "tasks.base"; the package's own __init__ is ""."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(file): file for file in sorted(PACKAGE.rglob("*.py"))}
TREES = {name: ast.parse(file.read_text(encoding="utf-8")) for name, file in MODULES.items()}


def is_for_types_alone(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node, but for `if TYPE_CHECKING:` blocks."""
    for child in ast.iter_child_nodes(tree):
        if not is_for_types_alone(child):
            yield child
            yield from nodes(child)


def imports(tree: ast.AST) -> Iterator[str]:
    """Every dotted name that is imported, "from a import b" as "a.b"."""
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(tree: ast.AST) -> Iterator[str]:
    """The modules of this package that are imported."""
    for name in imports(tree):
        inside = name.removeprefix("interp_arith.")
        if name.startswith("interp_arith.") and inside != "__version__":
            yield inside if inside in MODULES else inside.rpartition(".")[0]


def test_every_module_has_its_place_in_the_list():
    assert sorted(ROOMS) == sorted(name for name in MODULES if name)


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_rooms_above_it(name):
    above = ROOMS[: ROOMS.index(name)]
    assert [other for other in own_imports(TREES[name]) if other not in above] == []


def test_the_list_would_catch_a_wrong_import():
    tree = ast.parse(
        "def f():\n    from interp_arith.training.config import RunConfig\n    import interp_arith.cli"
    )
    assert list(own_imports(tree)) == ["training.config", "cli"]
    assert list(own_imports(ast.parse("if TYPE_CHECKING:\n    import interp_arith.cli"))) == []


@pytest.mark.parametrize("name", [name for name in ROOMS if name != "cli"])
def test_imports_stand_at_the_top(name):
    inside = [n for n in nodes(TREES[name]) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert [n.lineno for n in inside if n not in TREES[name].body] == []


def test_nothing_is_imported_relatively_and_no_except_is_bare():
    for name, tree in TREES.items():
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level], name
        assert not [n for n in ast.walk(tree) if isinstance(n, ast.ExceptHandler) and n.type is None], name


def test_only_models_name_transformer_lens():
    users = {name for name, tree in TREES.items() for i in imports(tree) if i.startswith("transformer_lens")}
    assert {name.split(".")[0] for name in users} == {"models"}


def test_figures_import_neither_torch_nor_rooms_that_do():
    found = [i for name in MODULES if name.startswith("figures") for i in imports(TREES[name])]
    light = ("interp_arith.errors", "interp_arith.figures", "interp_arith.shapes")
    assert [i for i in found if i.startswith(("torch", "interp_arith.")) and not i.startswith(light)] == []


def draws(tree: ast.AST) -> set[str]:
    """The whole dotted names, and the imports, that draw or could."""
    inner = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    dotted = (ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute) and id(n) not in inner)
    names = {name.split("(")[0] for name in dotted} | set(imports(tree))
    return {name for name in names if DRAWS.match(name)}


@pytest.mark.parametrize("name", [name for name in MODULES if name != "tasks.sampling"])
def test_only_sampling_draws(name):
    assert draws(TREES[name]) <= DRAWS_WITH_A_GENERATOR_PASSED_IN.get(name, set())


@pytest.mark.parametrize("name", [name for name in MODULES if name != "storage"])
def test_only_storage_names_files_of_a_run_directory(name):
    said = {
        n.value for n in ast.walk(TREES[name]) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }
    named = {text for text in said if ONLY_STORAGE_MAY_SAY.search(text) and "\n" not in text}
    assert named <= NAMED_ELSEWHERE.get(name, set())


@pytest.mark.parametrize("folder", ["interp_arith", "tests", "benchmarks"])
def test_no_module_passes_400_lines(folder):
    sizes = {
        file.relative_to(ROOT).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in (ROOT / folder).rglob("*.py")
    }
    assert {name: lines for name, lines in sizes.items() if lines > MOST_LINES} == {}


def undocumented(tree: ast.Module) -> list[str]:
    """Public modules, classes and functions without a docstring; an override speaks through what it overrides."""
    found = [] if ast.get_docstring(tree) else ["the module"]
    for node in tree.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node) and not is_overload(node):
            found.append(node.name)
    return found


def is_overload(node: ast.AST) -> bool:
    return any(ast.unparse(d) in ("overload", "typing.overload") for d in getattr(node, "decorator_list", []))


@pytest.mark.parametrize("name", MODULES)
def test_every_public_module_class_and_function_says_what_it_is(name):
    assert undocumented(TREES[name]) == []


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_every_public_method_of_a_base_class_says_what_it_does(name):
    silent = [
        f"{cls.name}.{method.name}"
        for cls in TREES[name].body
        if isinstance(cls, ast.ClassDef) and not cls.name.startswith("_") and is_base(cls)
        for method in cls.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_")
        if not ast.get_docstring(method) and not is_overload(method)
    ]
    assert silent == []


def is_base(cls: ast.ClassDef) -> bool:
    """A class that overrides nothing of this package: its methods have no other docstring to inherit."""
    return all(ast.unparse(base) in ("ABC", "Choice", "Exception", "Protocol") for base in cls.bases)


def test_the_checks_would_catch_a_draw_and_a_silent_function():
    tree = ast.parse("import random\ndef f():\n    return torch.rand(3) + np.random.default_rng(0).random()")
    assert draws(tree) == {"random", "torch.rand", "np.random.default_rng"}
    assert undocumented(tree) == ["the module", "f"]
