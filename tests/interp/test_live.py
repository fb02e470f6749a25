"""Measures logged while a run trains: in metrics.jsonl, for each seed, the same as measured afterwards."""

import pytest
from chaos.small_runs import same_weights
from test_kept import tiny

from interp_arith.errors import RequestError
from interp_arith.interp.live import live_measures
from interp_arith.interp.measures import measure
from interp_arith.runs import train, train_seeds
from interp_arith.training.lanes import fresh_weights

QUIET = {"device": "cpu", "progress": False}
LOGGED = ("logit_variance_explained", "restricted_loss", "gini_embedding")


def test_every_evaluation_has_them_and_they_are_those_of_its_weights(tmp_path):
    runs = train_seeds(tiny(6, measure=LOGGED, evaluate_every=2), seeds=[0, 1], out=tmp_path, **QUIET)
    for run in runs:
        metrics = run.metrics.set_index("step")
        assert (
            metrics["test_loss"].dropna().index.tolist() == metrics["gini_embedding"].dropna().index.tolist()
        )
        for step in run.steps:
            alone = measure(run.model(step), run.task, LOGGED)
            assert metrics.at[step, "gini_embedding"] == pytest.approx(
                alone["gini_embedding"].item(), rel=1e-6
            )
            wanted = alone["restricted_loss"].sel(variant="block", split="train").item()
            assert metrics.at[step, "restricted_loss[block, train]"] == pytest.approx(wanted, rel=1e-6)


def test_they_change_nothing_about_the_training(tmp_path):
    plain = train(tiny(6), out=tmp_path / "plain", **QUIET)
    watched = train(tiny(6, measure=LOGGED), out=tmp_path / "watched", **QUIET)
    assert same_weights(plain.weights(), watched.weights())


def test_what_is_not_finite_is_left_out_and_stops_nothing(tmp_path):
    run = train(tiny(3, measure=("excluded_loss",)), out=tmp_path, **QUIET)
    assert run.status == "finished"
    assert "excluded_loss[sum, all]" in run.metrics
    assert not any(name.endswith(", 3]") for name in run.metrics)
    assert "excluded_loss[block, all]" not in run.metrics


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("embedding_spectrum", "it is an array over freq; take it afterwards, with `interp-arith measure`"),
        ("learning_coefficient", "it is dear, in"),
        ("algorithm", "it is ordinary, in name"),
        ("restricted_los", "no measure is called 'restricted_los'; did you mean restricted_loss"),
    ],
)
def test_what_cannot_be_logged_is_refused_before_anything_is_written(name, why, tmp_path):
    with pytest.raises(RequestError, match=why):
        train(tiny(3, measure=(name,)), out=tmp_path, **QUIET)
    assert not list(tmp_path.iterdir())


def test_without_names_nothing_is_taken():
    config = tiny(3)
    assert live_measures(config)(config, fresh_weights(config)) == {}
