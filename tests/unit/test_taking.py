"""Work of other runs that a comparison takes over: of the run that has the most of it."""

from dataclasses import replace

import pytest
from rich.console import Console

from lr_ray.config import Config, merge, resolve
from lr_ray.embedded import amateur_path, expert_path
from lr_ray.errors import UserError
from lr_ray.evaluation.answers import Answer, AnswerStore
from lr_ray.experiments.asking import Asked, questions_of, take_answers, to_ask
from lr_ray.experiments.grid import read_grid
from lr_ray.experiments.plan import make_plan
from lr_ray.experiments.taking import runs_of, take
from lr_ray.experiments.work import Bench, references
from lr_ray.pipeline import evaluation
from lr_ray.pipeline.job import Job, facts
from lr_ray.pipeline.stages import ask_models
from lr_ray.placement.site import Site
from lr_ray.run.asked import begin
from lr_ray.run.stages import SAMPLING
from lr_ray.run.store import Run
from tests.unit.test_relabel import config, write

WHOLE = (*SAMPLING, "training")
MODELS = str(expert_path()), str(amateur_path())


def made(run: Run, asked, trained: bool) -> Run:
    """A run that is sampled, and perhaps trained."""
    write(run, asked)
    run.remove("run.json")
    begin(run, asked, facts(asked, *MODELS))
    if trained:
        run.write_bytes("model/config.json", b"{}")
        run.write_json("summary.json", run.read_json("summary.json") | {"training": {"seconds": 1}})
    return run


def job(tmp_path, asked) -> Job:
    run = Run(str(tmp_path / "new"))
    run.create()
    return Job(asked, run, *MODELS, Console(quiet=True), {})


@pytest.fixture
def comparison(tmp_path) -> Run:
    there = Run(str(tmp_path / "compared"))
    made(there.child("base"), config(), trained=False)
    made(there.child("variants/a-0"), config(), trained=True)
    made(there.child("variants/b-0"), config(kl_threshold=0.05), trained=True)
    there.write_json("grid.json", {"grid": "mine", "amateurs": None})
    return there


def test_a_comparison_offers_all_of_its_runs_and_a_run_itself(comparison, tmp_path):
    names = [run.location.removeprefix(comparison.location) for run in runs_of(comparison)]
    assert names == ["/base", "/variants/a-0", "/variants/b-0"]
    base = comparison.child("base")
    assert [run.location for run in runs_of(base)] == [base.location]
    with pytest.raises(UserError, match=r"--from \S*nothing: no such run"):
        runs_of(Run(str(tmp_path / "nothing"), "--from"))


def test_the_run_with_the_most_finished_stages_is_taken(comparison, tmp_path):
    new = job(tmp_path, config())
    assert take(new, runs_of(comparison), WHOLE) == f"{comparison.location}/variants/a-0"
    assert new.summary["training"] == {"seconds": 1}
    assert list(new.summary["shared"]) == list(WHOLE)
    assert new.run.exists("model/config.json")
    assert new.run.shards("supervision") == comparison.child("base").shards("supervision")
    assert new.run.read_json("summary.json") == new.summary


def test_no_more_stages_are_taken_than_asked_for(comparison, tmp_path):
    new = job(tmp_path, config())
    assert take(new, runs_of(comparison), SAMPLING) == f"{comparison.location}/base"
    assert list(new.summary["shared"]) == list(SAMPLING)
    assert not new.run.exists("model")


def test_scores_alone_are_taken_for_other_labels(comparison, tmp_path):
    new = job(tmp_path, config(kl_threshold=0.7))
    assert take(new, runs_of(comparison), WHOLE) == f"{comparison.location}/base"
    assert list(new.summary["shared"]) == ["decoding", "scoring"]
    assert new.run.shards("scores")
    assert not new.run.shards("supervision")


def test_another_length_takes_nothing(comparison, tmp_path):
    new = job(tmp_path, config(max_new_tokens=17))
    assert take(new, runs_of(comparison), WHOLE) is None
    assert new.summary == {}


def test_another_learning_rate_takes_the_sampling(comparison, tmp_path):
    tree = merge(config().model_dump(mode="json"), {"training": {"learning_rate": 0.5}})
    new = job(tmp_path, resolve(tree))
    take(new, runs_of(comparison), WHOLE)
    assert list(new.summary["shared"]) == list(SAMPLING)


def test_trajectories_that_would_be_decoded_again_are_not_said_to_be_taken(comparison, tmp_path):
    tree = merge(config().model_dump(mode="json"), {"models": {"amateur": MODELS[0]}})
    new = job(tmp_path, resolve(tree))
    new.amateur = MODELS[0]
    assert take(new, runs_of(comparison), WHOLE) is None
    assert new.summary == {}


def test_a_run_of_a_plugin_that_is_not_loaded_is_named(comparison, tmp_path):
    asked = comparison.child("variants/b-0").read_json("run.json")
    asked["config"]["sampling"]["selection"] = "somebodys"
    comparison.child("variants/b-0").write_json("run.json", asked)
    with pytest.raises(
        UserError, match=r"compared/variants/b-0: config: sampling\.selection.*--plugins"
    ):
        take(job(tmp_path, config()), runs_of(comparison), WHOLE)


@pytest.mark.parametrize("summed", [True, False])
def test_answers_of_a_trained_model_are_taken_where_its_weights_are_summed(tmp_path, summed):
    asked = Asked("a-0", str(tmp_path), "a-0 f", config().evaluation)
    if summed:
        (tmp_path / "trained_weights.json").write_text("{}")
    here, there = Run(str(tmp_path / "here")), Run(str(tmp_path / "there"))
    with AnswerStore(there) as store:
        for question in next(iter(questions_of(asked, ()).values())):
            store.add(question.key, Answer("one", "stop"))
    with AnswerStore(here) as store:
        take_answers(store, there, [asked], ())
        assert bool(store.answers) == summed


def test_models_that_have_all_their_answers_are_not_counted_among_those_to_be_asked(tmp_path):
    expert = Asked("expert", MODELS[0], "expert f", config().evaluation, untrained=True)
    trained = replace(expert, name="a-0", identity="a-0 f")
    with AnswerStore(Run(str(tmp_path))) as store:
        assert to_ask([expert], store, ()) == "1 model"
        assert to_ask([expert, trained], store, ()) == "2 models"
        for question in next(iter(questions_of(expert, ()).values())):
            store.add(question.key, Answer("one", "stop"))
        assert to_ask([expert, trained], store, ()) == "1 of 2 models"


def test_answers_of_an_untrained_model_are_taken_where_it_was_asked_alike(tmp_path):
    asked = Asked("expert", MODELS[0], "expert f", config().evaluation, untrained=True)
    other = replace(asked, evaluation=asked.evaluation.model_copy(update={"max_new_tokens": 9}))
    here, there = Run(str(tmp_path / "here")), Run(str(tmp_path / "there"))
    with AnswerStore(there) as store:
        for question in next(iter(questions_of(other, ()).values())):
            store.add(question.key, Answer("one", "stop"))
    with AnswerStore(here) as store:
        take_answers(store, there, [asked], ())
        assert store.answers == {}
        take_answers(store, there, [other], ())
    assert AnswerStore(here).answers == AnswerStore(there).answers != {}


SERVED_OTHERWISE = pytest.mark.parametrize(
    "section",
    [{"serving": {"dtype": "bfloat16"}}, {"models": {"chat_template_kwargs": {"thinks": True}}}],
)


def served(section: dict) -> Config:
    return resolve(merge(config().model_dump(mode="json"), section))


@SERVED_OTHERWISE
def test_answers_of_a_model_that_was_served_otherwise_are_not_taken(tmp_path, section):
    def expert_of(asked: Config) -> Asked:
        grid = read_grid("ablations", asked)
        of_no_account = [None] * 3
        bench = Bench(
            Run(str(tmp_path)), asked, grid, make_plan(asked, grid), MODELS[0], {}, Console(quiet=True),
            Site(), *of_no_account,
        )  # fmt: skip
        (expert,) = references(bench)
        return expert

    here, there = Run(str(tmp_path / "here")), Run(str(tmp_path / "there"))
    with AnswerStore(there) as store:
        for question in questions_of(expert_of(config()), ())["demo"]:
            store.add(question.key, Answer("one", "stop"))
    with AnswerStore(here) as store:
        take_answers(store, there, [expert_of(served(section))], ())
        assert store.answers == {}
        take_answers(store, there, [expert_of(served({"serving": {"port": 8123}}))], ())
        assert store.answers


@SERVED_OTHERWISE
def test_a_model_that_is_served_otherwise_is_asked_again(tmp_path, monkeypatch, section):
    """As by a second probe, whose answers stay whatever is sampled again."""
    identities = []

    def note(run, console, groups, *_, **__):
        identities.append([model.identity for group in groups for model in group])
        return {}

    monkeypatch.setattr(evaluation, "run_evaluation", note)
    for asked in (config(), served({"serving": {"port": 8123}}), served(section)):
        ask_models(
            job(tmp_path, asked), dict(zip(("expert", "amateur"), MODELS, strict=True)), None
        )
    first, again, otherwise = identities
    assert first == again
    assert len({*first, *otherwise}) == 4
