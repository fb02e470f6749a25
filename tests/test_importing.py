"""Weights of others as runs: what they are for the calls and commands that take a run, and what is refused."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from chaos.small_runs import small_config
from oracles import random_weights

import interp_arith as ia
from interp_arith.cli import main
from interp_arith.errors import RequestError
from interp_arith.models import build_model
from interp_arith.tasks import Addition, ModularArithmetic

PIZZA = Path(__file__).parent / "external" / "pizza" / "model_p99zdpze5l.pt"
MODEL_A = ["--task.p", "59", "--task.format", "numbers-bare", "--model.attention-coefficient", "0"]


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture
def weights() -> dict[str, torch.Tensor]:
    config = small_config()
    return random_weights(build_model(config.model, config.task)).state_dict()


class TestImportWeights:
    def test_a_state_dict_becomes_a_run_of_one_checkpoint(self, weights, tmp_path):
        run = ia.import_weights(weights, small_config(), name="theirs", out=tmp_path)
        assert run.path == tmp_path / "theirs"
        assert (run.status, run.steps, run.config.name) == ("imported", [0], "theirs")
        assert all(torch.equal(tensor, weights[name]) for name, tensor in run.weights().items())
        tokens = run.task.tokens(run.task.split("test"))
        assert torch.equal(run.model("last")(tokens), run.model(0)(tokens))

    def test_it_is_found_and_evaluated_like_any_other(self, weights, tmp_path):
        path = ia.import_weights(weights, small_config(), out=tmp_path).path
        run = ia.load_run(path)
        assert path.name == small_config().name
        table = ia.evaluate(run, device="cpu").set_index("set")
        assert run.metrics["test_loss"].tolist() == pytest.approx([table.loc["test", "loss"]])
        assert run.checkpoint().metrics["train_accuracy"] == table.loc["train", "accuracy"]
        row = ia.runs_table([run]).iloc[0]
        assert (row["run"], row["status"], row["step"]) == (path.name, "imported", 0)

    def test_where_the_weights_come_from_is_kept(self, tmp_path):
        config = small_config(
            task=ModularArithmetic(p=59, format="numbers-bare"),
            model={"d_model": 128, "n_heads": 4, "d_mlp": 512, "attention_coefficient": 0},
        )
        run = ia.import_weights(PIZZA, config, name="model-a", out=tmp_path)
        assert run.info["source"] == str(PIZZA)
        assert run.info["source_sha256"] == hashlib.sha256(PIZZA.read_bytes()).hexdigest()
        assert run.info["layout"] == "transposed"
        assert run.metrics["test_accuracy"].tolist() == [1.0]

    def test_a_given_split_is_kept_and_used(self, weights, tmp_path):
        mask = np.zeros((7, 7), dtype=bool)
        mask[2, 3] = mask[4, 5] = True
        run = ia.import_weights(weights, small_config(), name="theirs", out=tmp_path, split=mask)
        again = ia.load_run(run.path)
        assert again.task.split("train").tolist() == [[2, 3], [4, 5]]
        assert len(again.task.split("test")) == 47

    def test_a_run_can_start_from_imported_weights(self, weights, tmp_path):
        theirs = ia.import_weights(weights, small_config(), name="theirs", out=tmp_path)
        config = small_config(init_from=str(theirs.path), budget={"steps": 1})
        ours = ia.train(config, out=tmp_path, device="cpu", progress=False)
        assert all(torch.equal(tensor, weights[name]) for name, tensor in ours.weights(0).items())

    def test_an_adder_with_another_vocabulary_is_the_same_adder_here(self, tmp_path):
        ours = ia.load_run("checkpoints/add-5d-msb-s1")
        symbols = ours.task.vocabulary.symbols
        written = symbols[: symbols.index("<pad>")]
        theirs = [*reversed(written), "*"]  # other ids, no <pad>, and a token that the task does not write
        weights = ours.model().state_dict()
        ids = torch.tensor([symbols.index(symbol) for symbol in theirs[:-1]])
        W_E, W_U = weights["embed.W_E"], weights["unembed.W_U"]
        weights["embed.W_E"] = torch.cat([W_E[ids], torch.full_like(W_E[:1], 7)])
        weights["unembed.W_U"] = torch.cat([W_U[:, ids], torch.full_like(W_U[:, :1], 7)], dim=1)
        weights["unembed.b_U"] = torch.zeros(len(theirs))
        run = ia.import_weights(weights, ours.config, name="theirs", out=tmp_path, vocabulary=theirs)
        tokens = ours.task.examples(["98765+12345=", "50005+49995="]).tokens
        assert torch.equal(
            run.model()(tokens)[..., : len(written)], ours.model()(tokens)[..., : len(written)]
        )
        assert run.add(99999, 1) == 100000
        assert run.measure(["class_exact_match"])["class_exact_match"].min() > 0.99

    @pytest.mark.parametrize(
        ("vocabulary", "message"),
        [
            (
                "0123456789",
                r"vocabulary: .*\+.* not among the 10 given, 0 1 2 3 4 5 6 7 8 9; the task writes 0 1",
            ),
            ("0123456789+-=*@", r"vocabulary: 15 tokens given, and embed.W_E is \[14, 64\]"),
        ],
    )
    def test_a_vocabulary_that_does_not_fit_is_refused_and_nothing_is_written(
        self, vocabulary, message, tmp_path
    ):
        ours = ia.load_run("checkpoints/add-5d-msb-s1")
        with pytest.raises(RequestError, match=message):
            ia.import_weights(
                ours.weights(), ours.config, name="theirs", out=tmp_path, vocabulary=list(vocabulary)
            )
        assert not (tmp_path / "theirs").exists()

    @pytest.mark.parametrize(
        ("mask", "message"),
        [
            (np.ones((7, 6), dtype=bool), r"given shape \[7, 6\] of bool; allowed: \[7, 7\] of bool"),
            (np.ones((7, 7)), r"given shape \[7, 7\] of float64"),
            (np.zeros((7, 7), dtype=bool), "no training row"),
        ],
    )
    def test_a_split_that_does_not_fit_is_refused_and_nothing_is_written(
        self, weights, mask, message, tmp_path
    ):
        with pytest.raises(RequestError, match=f"split mask: {message}"):
            ia.import_weights(weights, small_config(), out=tmp_path, split=mask)
        assert list(tmp_path.iterdir()) == []

    def test_a_split_of_a_task_that_draws_is_refused(self, weights, tmp_path):
        config = small_config(task=Addition(n_digits=2), batch_size=8)
        with pytest.raises(RequestError, match="the addition task draws its questions; leave the mask out"):
            ia.import_weights(weights, config, out=tmp_path, split=np.ones((7, 7), dtype=bool))

    def test_weights_that_do_not_fit_are_named_and_nothing_is_written(self, weights, tmp_path):
        weights["embed.W_E"] = weights["embed.W_E"][:-1]
        shape = list(weights["embed.W_E"].shape)
        with pytest.raises(RequestError, match=re.escape(f"embed.W_E is {shape}, and the model wants")):
            ia.import_weights(weights, small_config(), out=tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_a_run_that_exists_is_left_alone(self, weights, tmp_path):
        first = ia.import_weights(weights, small_config(), out=tmp_path)
        with pytest.raises(RequestError, match="exists already; give another --name or --out"):
            ia.import_weights(weights, small_config(), out=tmp_path)
        assert first.steps == [0]

    def test_a_file_where_the_run_should_be_is_refused(self, weights, tmp_path):
        (tmp_path / "theirs").write_text("mine")
        with pytest.raises(RequestError, match="theirs is a file; give another --name or --out"):
            ia.import_weights(weights, small_config(), name="theirs", out=tmp_path)


class TestCommand:
    def run(self, *arguments, tmp_path) -> int:
        return main(["import", *map(str, arguments), "--out", str(tmp_path / "runs")])

    def test_a_published_model_is_imported_evaluated_and_listed(self, tmp_path, capsys):
        arguments = [PIZZA, "--config", "mod-add-113", "--name", "model-a", *MODEL_A]
        assert self.run(*arguments, tmp_path=tmp_path) == 0
        out = capsys.readouterr().out
        # 2·59·128 + 2·128 + 4·128·128 + 2·128·512 + 512 + 128
        assert f"{tmp_path}/runs/model-a: 212,608 parameters from {PIZZA} (transposed layout)" in out
        assert re.search(r"test +\S+ +1 +1", out)
        assert (
            "train and test are this config's own split; if theirs was another, give it with --split" in out
        )
        assert main(["evaluate", str(tmp_path / "runs" / "model-a"), "--device", "cpu"]) == 0
        assert main(["runs", str(tmp_path / "runs")]) == 0
        assert "imported" in capsys.readouterr().out

    def test_a_mask_file_is_the_split(self, tmp_path, capsys):
        mask = np.zeros((59, 59), dtype=bool)
        mask[:, 0] = True
        np.save(tmp_path / "mask.npy", mask)
        arguments = [PIZZA, "--config=mod-add-113", *MODEL_A, "--split", tmp_path / "mask.npy"]
        assert self.run(*arguments, tmp_path=tmp_path) == 0
        assert len(ia.load_run(tmp_path / "runs" / "mod-add-113").task.split("train")) == 59
        assert "own split" not in capsys.readouterr().out

    def test_an_extra_tensor_is_named_and_ignored_on_request(self, weights, tmp_path, capsys):
        torch.save(weights | {"x_embed": torch.zeros(2)}, tmp_path / "weights.pt")
        config = ia.import_weights(weights, small_config(), out=tmp_path).path / "config.yaml"
        arguments = [tmp_path / "weights.pt", "--config", config, "--name", "theirs"]
        assert self.run(*arguments, tmp_path=tmp_path) == 2
        assert "unexpected x_embed [2]" in capsys.readouterr().err
        assert self.run(*arguments, "--ignore", "x_embed", tmp_path=tmp_path) == 0

    @pytest.mark.parametrize("vocabulary", ["+=9876543210", "+ = 9 8 7 6 5 4 3 2 1 0"])
    def test_another_vocabulary_is_given_by_letters_or_by_words(self, vocabulary, tmp_path):
        ours = ia.load_run("checkpoints/add-5d-msb-s1")
        symbols, theirs = ours.task.vocabulary.symbols, vocabulary.replace(" ", "")
        ids = torch.tensor([symbols.index(symbol) for symbol in theirs])
        weights = ours.weights()
        weights["embed.W_E"], weights["unembed.W_U"] = (
            weights["embed.W_E"][ids],
            weights["unembed.W_U"][:, ids],
        )
        torch.save(weights, tmp_path / "weights.pt")
        arguments = [tmp_path / "weights.pt", "--config", ours.path / "config.yaml", "--name", "theirs"]
        assert self.run(*arguments, "--vocabulary", vocabulary, tmp_path=tmp_path) == 0
        run = ia.load_run(tmp_path / "runs" / "theirs")
        assert run.add(98765, 4321) == 103086
        assert run.info["vocabulary"] == list(theirs)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                [PIZZA, "--config", "mod-add-113", "--vocabulary", ""],
                "vocabulary: 0 1 2",
            ),
            (
                [PIZZA],
                "import: no config given; for example interp-arith import model.pt --config mod-add-113",
            ),
            ([PIZZA, "--config"], "import: no config given"),
            ([PIZZA, "--config", "mod-ad-113"], "did you mean mod-add-113"),
            (["no.pt", "--config", "mod-add-113"], "no.pt: no such file"),
            ([PIZZA, "--config", "mod-add-113", "--split", "no.npy"], "--split no.npy: no such file"),
            ([PIZZA, "--config", "mod-add-113", "--split", PIZZA], "is no NumPy array; numpy.save a boolean"),
            ([PIZZA, "--config", "mod-add-113"], "embed.W_E is [128, 59], and the model wants [128, 114]"),
        ],
    )
    def test_a_wrong_request_is_answered_in_one_line(self, arguments, message, tmp_path, capsys):
        assert self.run(*arguments, tmp_path=tmp_path) == 2
        said = capsys.readouterr().err
        assert message in said
        assert said.count("\n") == 1
        assert not (tmp_path / "runs").exists()

    def test_help_says_what_there_is(self, capsys):
        with pytest.raises(SystemExit) as end:
            main(["import", "--help"])
        assert end.value.code == 0
        out = capsys.readouterr().out
        assert all(
            word in out
            for word in ("FILE", "--split", "--layout", "--ignore", "--model.attention-coefficient")
        )

    def test_run_json_is_plain(self, weights, tmp_path):
        run = ia.import_weights(weights, small_config(), out=tmp_path)
        assert json.loads((run.path / "run.json").read_text())["source"] == "a state dict"
