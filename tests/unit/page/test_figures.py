"""Figures of the page that hold for some runs only: by other rules, by rejection, resumed, of several samples."""

import pytest

from lr_ray.config import resolve
from lr_ray.labelling.label import supervise
from lr_ray.report import write_page
from lr_ray.report.page import PAGE
from lr_ray.run.schemas import REJECTED, SCORES
from lr_ray.run.store import Run
from tests.made_up import made_up
from tests.unit.page.dom import by_id, of_class, read, said, table


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(str(tmp_path))


def page_of(run: Run, summary: dict, **sampling):
    """The page of the run, which is said to be of these settings of sampling."""
    asked = run.read_json("run.json")
    asked["config"]["sampling"] |= sampling
    run.write_json("run.json", asked)
    write_page(run, summary)
    return read(run.fs.cat_file(run.path(PAGE)).decode())


def test_what_labels_prefer_at_other_thresholds_is_told_of_contrastive_labels_alone(run):
    summary = made_up(run, problems=4, trajectories=6)
    head = ["KL above, nats", "steps kept", "of all"]
    shown = table(page_of(run, summary, labels="contrast:0.5"), "What other thresholds")
    assert shown[0] == [*head, "label prefers another token"]
    scores = run.read_tables(run.shards("scores"), SCORES).combine_chunks()
    config = run.read_json("run.json")["config"]
    config["sampling"]["labels"] = "greedy"
    greedy = supervise(scores, resolve(config).sampling, REJECTED.empty_table(), [])
    run.write_table("supervision/part-0.parquet", greedy.good)
    root = page_of(run, summary, labels="greedy")
    assert {len(row) for row in table(root, "What other thresholds")} == {len(head)}
    kept = by_id(root, "kept")
    assert "The label of 0.0% of them prefers another token" in said(of_class(kept, "lead")[0])
    charts = [svg.get("aria-label") for svg in of_class(kept, "chart")]
    assert not any(label.startswith("Entropy") for label in charts)  # all are 0
