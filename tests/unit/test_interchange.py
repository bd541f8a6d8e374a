"""Sample files of the published code in and out, against kept steps made by the oracle."""

import errno
import gzip
import hashlib
import json
import os
import tempfile
from collections import Counter

import fsspec
import numpy as np
import pyarrow as pa
import pytest
import torch

from lr_ray import embedded
from lr_ray.cli.front import run_command
from lr_ray.config import merge, read_tree, resolve
from lr_ray.errors import StageError, UserError
from lr_ray.interop import reading
from lr_ray.interop.form import PUBLISHED, Expert
from lr_ray.interop.reading import check_files, import_files, remove_leftovers
from lr_ray.interop.writing import check_out, export
from lr_ray.method import oracle
from lr_ray.models.models import render_prompt
from lr_ray.pipeline.job import facts
from lr_ray.run.asked import IMPORTED, begin
from lr_ray.run.schemas import REJECTED, SUPERVISION
from lr_ray.run.store import Run
from lr_ray.training.data import Supervision

EXPERT = Expert(str(embedded.expert_path()), None, {})
TOKENIZER = EXPERT.tokenizer
PROBLEM = "Ann has 4 pens in a shop. Ann orders 6 more. How many pens?"


def config(**sampling):
    return resolve(merge(read_tree("demo"), {"sampling": sampling}))


def imported(folder, *files, **sampling):
    run = Run(str(folder))
    part = import_files(run, config(**sampling), EXPERT, [str(f) for f in files], lambda n: None)
    return run, part


def rows_of(run: Run) -> list[dict]:
    table = run.read_tables(run.shards("supervision"), SUPERVISION)
    return table.sort_by("problem_id").to_pylist()


def rejected_of(run: Run) -> list[dict]:
    return run.read_tables(run.shards("rejected"), REJECTED).to_pylist()


def kept_steps(run: Run) -> list[tuple]:
    """Problem, context, label ids and weights of every kept step, as training sees them."""
    table = run.read_tables(run.shards("supervision"), SUPERVISION).sort_by("problem_id")
    names = [r["problem_id"] for r in table.to_pylist() if r["steps"]]
    with tempfile.TemporaryDirectory() as scratch:
        return [
            (
                name,
                trajectory.token_ids[: step.row + 1].tolist(),
                step.token_ids.tolist(),
                step.weights.tolist(),
            )
            for name, trajectory in zip(names, Supervision(run, 1 << 20, scratch), strict=True)
            for step in trajectory.steps
        ]


def kept_kl(run: Run) -> list[float]:
    return [row["kl"][step["position"]] for row in rows_of(run) for step in row["steps"]]


def line(prefix="10", step=None, token_ids=(20, 21), weights=(0.25, 0.75), **fields) -> dict:
    ids = TOKENIZER(prefix)["input_ids"]
    return {
        "prompt_id": PROBLEM,
        "step": len(ids) if step is None else step,
        "prefix": prefix,
        "tokens": [TOKENIZER.decode([i]) for i in token_ids],
        "token_ids": list(token_ids),
        "weights": list(weights),
        "kl_divergence": 0.5,
    } | fields


def write(path, *lines) -> str:
    texts = [text if isinstance(text, str) else json.dumps(text) for text in lines]
    path.write_text("".join(text + "\n" for text in texts))
    return str(path)


@pytest.fixture(scope="module")
def sampled(tmp_path_factory) -> Run:
    """Six problems solved by the oracle, and one trajectory of tokens that no text tokenizes to."""
    torch.set_num_threads(1)
    expert = oracle.load(str(embedded.expert_path()))
    amateur = oracle.load(str(embedded.amateur_path()))
    rows = []
    for problem in embedded.generate("sampling", 6, 0):
        prompt = render_prompt(TOKENIZER, problem["problem"], None)
        stop = [TOKENIZER.eos_token_id]
        solution = oracle.solve(expert, amateur, prompt, stop, 128, 0.1, 0.2)
        rows.append(supervision_row(problem["problem_id"], solution))
    spelled = [TOKENIZER.convert_tokens_to_ids(c) for c in "Step"]
    odd = oracle.Solution(render_prompt(TOKENIZER, PROBLEM, None), spelled, [0.5] * 4)
    odd.kept = [oracle.KeptStep(odd.prompt + spelled[:p], [20], [1.0]) for p in (1, 2, 3)]
    rows.append(supervision_row("spelled", odd))
    run = Run(str(tmp_path_factory.mktemp("sampled")))
    for i in (0, 1):  # in two shards, out of order
        table = pa.Table.from_pylist(rows[1 - i :: 2], schema=SUPERVISION)
        run.write_table(f"supervision/part-{i}.parquet", table)
    return run


def supervision_row(problem_id: str, solution: oracle.Solution) -> dict:
    return {
        "problem_id": problem_id,
        "prompt_token_ids": solution.prompt,
        "completion_token_ids": solution.completion,
        "finish_reason": "stop",
        "kl": solution.kl,
        "steps": [
            {
                "position": len(kept.context) - len(solution.prompt),
                "token_ids": kept.token_ids,
                "weights": kept.weights,
            }
            for kept in solution.kept
        ],
    }


@pytest.fixture(scope="module")
def exported(sampled, tmp_path_factory):
    file = tmp_path_factory.mktemp("exported") / "samples.jsonl"
    return file, export(sampled, EXPERT, str(file))


def test_exported_then_imported_steps_are_the_same(sampled, exported, tmp_path):
    file, counts = exported
    run, part = imported(tmp_path, file)
    assert part["steps_kept"] == counts["steps"] > 15
    assert kept_steps(run) == kept_steps(sampled)
    assert kept_kl(run) == kept_kl(sampled)
    assert part["rejected"] == part["steps_retokenized"] == part["trajectories_split"] == 0


def test_import_then_export_is_stable(exported, tmp_path):
    first, _ = imported(tmp_path / "first", exported[0])
    again = tmp_path / "again.jsonl"
    export(first, EXPERT, str(again))
    assert again.read_bytes() == exported[0].read_bytes()
    second, _ = imported(tmp_path / "second", again)
    assert repr(rows_of(second)) == repr(rows_of(first))  # repr, as nan is not nan


def test_exported_lines_are_of_the_published_form_and_in_order(sampled, exported):
    file, counts = exported
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    assert all(tuple(item)[: len(PUBLISHED)] == PUBLISHED for item in lines)
    order = [(item["problem_id"], item["step"]) for item in lines]
    assert order == sorted(order)
    problems = {p["problem_id"]: p["problem"] for p in embedded.generate("sampling", 6, 0)}
    problems["spelled"] = PROBLEM
    rows = {row["problem_id"]: row for row in rows_of(sampled)}
    for item in lines:
        completion = rows[item["problem_id"]]["completion_token_ids"]
        assert item["prompt_id"] == problems[item["problem_id"]]
        assert item["prefix"] == TOKENIZER.decode(completion[: item["step"]])
        assert item["tokens"] == [TOKENIZER.decode([i]) for i in item["token_ids"]]
    assert counts["steps_retokenized"] == 2  # "St" and "Ste"; "S" is a token
    assert counts["prompts_unread"] == counts["steps_beyond"] == 0


def test_published_fields_alone_say_what_they_lost(sampled, exported, tmp_path):
    items = [json.loads(text) for text in exported[0].read_text().splitlines()]
    pure = [{name: item[name] for name in PUBLISHED} for item in items]
    run, part = imported(tmp_path / "run", write(tmp_path / "pure.jsonl", *pure))
    # A problem's text is hashed or its own id: compare without it.
    there = Counter(repr(step[1:]) for step in kept_steps(sampled))
    here = Counter(repr(step[1:]) for step in kept_steps(run))
    shorter = sum(len(TOKENIZER(i["prefix"])["input_ids"]) != i["step"] for i in items)
    assert part["steps_from_text"] == part["prompts_rendered"] == len(items)
    assert (there - here).total() == part["steps_retokenized"] == shorter == 2


def test_row_of_published_lines_has_what_such_a_file_lacks_marked(tmp_path):
    short, long = line("Step by"), line("Step by step. 4+6=", kl_divergence=2.5)
    run, part = imported(tmp_path / "run", write(tmp_path / "a.jsonl", long, short))
    (row,) = rows_of(run)
    tokens = TOKENIZER("Step by step. 4+6=")["input_ids"]
    assert row["problem_id"] == PROBLEM
    assert row["finish_reason"] == "imported"
    assert row["prompt_token_ids"] == render_prompt(TOKENIZER, PROBLEM, None)
    assert row["completion_token_ids"] == [*tokens, 21]  # the heavier of 20 and 21
    assert [s["position"] for s in row["steps"]] == [short["step"], long["step"]]
    assert np.flatnonzero(~np.isnan(row["kl"])).tolist() == [short["step"], long["step"]]
    assert part["steps_scored"] == 2
    assert part["problems"] == part["trajectories"] == 1


def test_prefix_that_ends_within_a_word_gets_a_trajectory_of_its_own(tmp_path):
    long, cut = line("Step by step."), line("Step by st", step=2)
    ids = TOKENIZER("Step by st")["input_ids"]
    assert TOKENIZER("Step by step.")["input_ids"][: len(ids)] != ids
    run, part = imported(tmp_path / "run", write(tmp_path / "a.jsonl", cut, long))
    assert [row["problem_id"] for row in rows_of(run)] == [PROBLEM, f"{PROBLEM}#2"]
    prompt = render_prompt(TOKENIZER, PROBLEM, None)
    assert [step[1] for step in kept_steps(run)] == [
        prompt + TOKENIZER(text)["input_ids"] for text in ("Step by step.", "Step by st")
    ]
    assert part["trajectories_split"] == part["steps_retokenized"] == 1


def test_prefix_may_hold_the_prompt_too(tmp_path):
    prompt = TOKENIZER.decode(render_prompt(TOKENIZER, PROBLEM, "Think."))
    lines = [
        line(prompt + text, prompt_id="q7", step=len(TOKENIZER(text)["input_ids"]))
        for text in ("4+6", "4+6=10.")
    ]
    run, _ = imported(tmp_path / "run", write(tmp_path / "a.jsonl", *lines))
    (row,) = rows_of(run)
    assert row["problem_id"] == "q7"
    assert row["prompt_token_ids"] == render_prompt(TOKENIZER, PROBLEM, "Think.")
    assert [s["position"] for s in row["steps"]] == [item["step"] for item in lines]


def test_ids_of_long_texts_repeats_and_other_files_are_distinct(tmp_path):
    text = PROBLEM * 2
    one = write(tmp_path / "one.jsonl", *[line(prompt_id=p) for p in (text, PROBLEM, text)])
    two = write(tmp_path / "two.jsonl", line(prompt_id=text))
    run, part = imported(tmp_path / "run", one, two)
    ids = [row["problem_id"] for row in rows_of(run)]
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    assert ids == [PROBLEM, f"one-{digest}", f"one-{digest}#2", f"two-{digest}"]
    assert part["problems_repeated"] == 1
    assert part["imported"] == [one, two]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"step": 1, "step": 2}', "'step' is there twice; must be there once"),
        ({"prompt_id": "x"}, "no step, prefix, tokens, token_ids, weights, kl_divergence"),
        (line(prompt_id=" "), "prompt_id must be a text that is not empty"),
        (line(prompt_id="q7"), "prompt_id 'q7' is no problem's text, and prefix holds no prompt"),
        (line(step=-1), "step must be a whole number from 0, not -1"),
        (line(prefix="a", step=1) | {"prefix": "\ud800"}, "prefix must be a text"),
        (line(token_ids=[], weights=[]), "token_ids must be a list that is not empty"),
        (line(token_ids=[20, 20]), "token_ids holds a token twice"),
        (
            line(token_ids=[20, 590]),
            f"token_ids holds 590; the expert's ids are 0 to {EXPERT.rows - 1}",
        ),
        (line(weights=[1.0]), "weights must be a list of 2, as token_ids"),
        (line(weights=[1.5, -0.5]), "weights holds -0.5; they must be finite and from 0"),
        (line(weights=[0.5, float("nan")]), "weights holds nan; they must be finite and from 0"),
        (line(weights=[0.5, 0.51]), "weights sum to 1.01, not to 1"),
        (line(kl_divergence=None), "kl_divergence must be a finite number from 0, not None"),
        (line(tokens=["x", "3"]), "token 20 is 'x' there and '2' for the expert"),
        (line(tokens=["1"]), "tokens must be a list of 2, as token_ids"),
        (
            line(context_token_ids=[1], step=2),
            "context_token_ids has 1 token, fewer than step = 2",
        ),
        (line("1" * 600), "context has"),
    ],
)
def test_bad_line_is_rejected_with_its_reason(tmp_path, bad, reason):
    file = write(tmp_path / "a.jsonl", line(), "", bad)
    run, part = imported(tmp_path / "run", file, max_rejected=0.5)
    (row,) = rejected_of(run)
    assert row["reason"].startswith(reason)
    assert (row["file"], row["row"]) == (file, 3)
    assert (part["lines"], part["rejected"], part["steps_kept"]) == (2, 1, 1)


def test_rounded_weights_are_normalised_and_exact_ones_untouched(tmp_path):
    exact = [float(np.float32(w)) for w in (0.1, 0.9)]
    lines = [line("4", weights=exact), line("4+6", weights=[0.2502, 0.7502])]
    run, _ = imported(tmp_path / "run", write(tmp_path / "a.jsonl", *lines))
    first, second = (step[3] for step in kept_steps(run))
    assert first == exact
    assert sum(second) == pytest.approx(1, abs=1e-6)
    assert second[0] / second[1] == pytest.approx(0.2502 / 0.7502, rel=1e-6)


def test_too_many_bad_lines_fail(tmp_path):
    file = write(tmp_path / "a.jsonl", line(), "{", line("4"))
    with pytest.raises(UserError, match=r"1 of 3 lines .*a\.jsonl:2: not JSON; reasons: "):
        imported(tmp_path / "run", file, max_rejected=0.3)
    with pytest.raises(UserError, match="no kept step"):
        imported(tmp_path / "other", write(tmp_path / "b.jsonl", ""))


def test_a_file_that_is_given_twice_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "a.jsonl", line())
    with pytest.raises(UserError, match=r"^--samples \./a\.jsonl: is there twice; give each"):
        check_files([file, "./a.jsonl"], EXPERT)


def import_command(run, file) -> tuple[int, list[str]]:
    """The exit code of `lr-ray import`, and what there is of the run then."""
    code = run_command(["import", "--config", "demo", "--run", str(run), "--samples", str(file)])
    return code, sorted(path.name for path in run.glob("[!.]*") if path.name != "logs")


@pytest.mark.parametrize(
    ("bad", "said", "leaves"),
    [
        ([{"prompt_id": "x"}], "a.jsonl: 1 of 1 lines were rejected", ["rejected.jsonl"]),
        ([line(), line("4"), "{"], "a.jsonl: 1 of 3 lines were rejected", ["rejected.jsonl"]),
        ([line()] * 101 + [line(tokens=["x", "y"])] * 99, "99 of 200 lines", ["rejected.jsonl"]),
        ([""], "a.jsonl: no kept step; must have a line for each", None),
    ],
)  # fmt: skip
def test_files_that_are_refused_begin_no_run_and_others_may_follow(tmp_path, capsys, bad, said, leaves):  # fmt: skip
    run, file = tmp_path / "run", write(tmp_path / "a.jsonl", *bad)
    assert import_command(run, file) == (2, leaves or [])
    error = capsys.readouterr().err
    assert (error.count("\n"), said in error) == (1, True)
    assert run.exists() == bool(leaves)
    assert import_command(run, write(tmp_path / "b.jsonl", line())) == (
        0,
        ["progress.json", "run.json", "summary.json", "supervision"],
    )
    assert Run(str(run)).read_json("summary.json")["sampling"]["steps_kept"] == 1


def test_a_run_that_an_interrupted_import_has_begun_stays_one(tmp_path):
    run = Run(str(tmp_path / "run"))
    asked = config()
    begin(run, asked, facts(asked, str(embedded.expert_path()), str(embedded.amateur_path())) | {"data": IMPORTED})  # fmt: skip
    assert import_command(tmp_path / "run", write(tmp_path / "a.jsonl", "{"))[0] == 2
    assert run.exists("run.json")


def test_file_of_another_tokenizer_is_named_with_line_and_token(tmp_path):
    other = line(tokens=["Hello", "World"]), line(token_ids=[20, 99_999], tokens=["x", "y"])
    file = write(tmp_path / "a.jsonl", line(), *other)
    with pytest.raises(UserError, match=r"a\.jsonl: .* line 2: token 20 is 'Hello' .* '2' for "):
        check_files([write(tmp_path / "b.jsonl", line()), file], EXPERT)
    with pytest.raises(UserError, match="No such file"):
        check_files([str(tmp_path / "none")], EXPERT)


def test_a_name_of_gzip_is_gzipped(sampled, exported, tmp_path):
    out = tmp_path / "samples.jsonl.gz"
    export(sampled, EXPERT, str(out))
    assert gzip.decompress(out.read_bytes()) == exported[0].read_bytes()
    assert check_files([str(out)], EXPERT) == out.stat().st_size
    run, told = Run(str(tmp_path / "run")), []
    import_files(run, config(), EXPERT, [str(out)], told.append)
    assert kept_steps(run) == kept_steps(sampled)
    assert sum(told) == out.stat().st_size
    again = "memory://interchange/samples.gz"
    export(sampled, EXPERT, again)
    assert fsspec.filesystem("memory").cat_file(again) == out.read_bytes()


@pytest.mark.parametrize("cut", [20, -4])
def test_a_gzip_file_that_is_not_whole_is_one_line(exported, tmp_path, cut):
    file = tmp_path / "samples.jsonl.gz"
    file.write_bytes(gzip.compress(exported[0].read_bytes() * 9)[:cut])
    read = check_files if cut == 20 else lambda files, expert: imported(tmp_path / "run", *files)
    with pytest.raises((UserError, StageError), match=r"^--samples .*\.gz: Compressed file ended "):
        read([str(file)], EXPERT)


@pytest.mark.parametrize("ending", ["bz2", "xz", "zst", "ZIP", "parquet"])
def test_names_of_other_forms_are_refused(tmp_path, ending):
    file = tmp_path / f"samples.{ending}"
    said = f"samples\\.{ending}: cannot be \\.{ending}; give .jsonl, or .jsonl.gz$"
    with pytest.raises(UserError, match=f"^--out .*{said}"):
        check_out(str(file), overwrite=False)
    file.write_bytes(b"x")
    with pytest.raises(UserError, match=f"^--samples .*{said}"):
        check_files([str(file)], EXPERT)


URIS = ["zip://x.jsonl", "github://x.jsonl", "reference://x", "ftp://127.0.0.1:1/x", "nosuch://x"]


@pytest.mark.parametrize("uri", URIS)
def test_uris_that_no_file_system_opens_are_one_line(uri):
    for option, check in {
        "--samples": lambda: check_files([uri], EXPERT),
        "--out": lambda: check_out(uri, overwrite=False),
    }.items():
        with pytest.raises(UserError, match=rf"^{option} {uri}: \w") as error:
            check()
        assert "\n" not in str(error.value)


def test_samples_of_a_pipe_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"^--samples .*/pipe: a pipe or device; give a regular"):
        check_files([str(tmp_path / "pipe")], EXPERT)


def test_raw_vocabulary_pieces_count_as_their_text(tmp_path):
    token = TOKENIZER("a by")["input_ids"][-1]
    raw = TOKENIZER.convert_ids_to_tokens(token)
    assert raw != TOKENIZER.decode([token])
    file = write(tmp_path / "a.jsonl", line(token_ids=[token], weights=[1], tokens=[raw]))
    check_files([file], EXPERT)
    _, part = imported(tmp_path / "run", file)
    assert part["rejected"] == 0


def test_shards_are_bounded_and_an_interrupted_import_leaves_no_mixture(
    exported, tmp_path, monkeypatch
):
    monkeypatch.setattr(reading, "_SHARD_VALUES", 100)
    run, part = imported(tmp_path / "run", exported[0])
    shards = run.shards("supervision")
    assert len(shards) > 3
    assert part["trajectories"] == len(rows_of(run)) == 7
    remove_leftovers(run)
    other = write(tmp_path / "other.jsonl", line())
    imported(tmp_path / "run", other)
    assert run.shards("supervision") == shards[:1]
    assert [row["problem_id"] for row in rows_of(run)] == [PROBLEM]
    run.write_table("supervision/part-1.parquet", SUPERVISION.empty_table())
    with pytest.raises(UserError, match=r"part-1\.parquet was not imported"):
        remove_leftovers(run)
    assert len(run.shards("supervision")) == 2


def test_where_nothing_can_be_written_is_told_before_the_run_is_read(tmp_path, monkeypatch):
    def refuse(**where):
        assert where == {"dir": str(tmp_path)}
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"^--out \S+x\.jsonl: Permission denied$"):
        check_out(str(tmp_path / "x.jsonl"), overwrite=False)
    with pytest.raises(UserError, match=r"^--out \S+/new/: is a directory; give a file"):
        check_out(f"{tmp_path}/new/", overwrite=False)
    assert list(tmp_path.iterdir()) == []


def test_export_replaces_a_file_only_when_asked_and_never_leaves_part_of_one(sampled, tmp_path):
    out = tmp_path / "out.jsonl"
    out.write_text("before")
    with pytest.raises(UserError, match="exists; give another, or --overwrite"):
        check_out(str(out), overwrite=False)
    with pytest.raises(StageError, match="no kept step"):
        export(Run(str(tmp_path / "empty")), EXPERT, str(out))
    assert [p.name for p in tmp_path.iterdir()] == ["out.jsonl"]
    assert out.read_text() == "before"
    check_out(str(out), overwrite=True)
    export(sampled, EXPERT, str(out))
    assert out.read_text().startswith('{"prompt_id"')


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"steps": None}, "a null in steps"), ({"kl": [0.5]}, "1 KL values for "),
     ({"steps": [{"position": 0, "token_ids": [7, 8], "weights": [1.5, -0.5]}]}, "the weight -0.5")],
)  # fmt: skip
def test_a_row_that_cannot_be_used_is_not_exported(sampled, tmp_path, changed, said):
    first, *others = rows_of(sampled)
    run, out = Run(str(tmp_path / "run")), tmp_path / "out.jsonl"
    run.write_table(
        "supervision/part-0.parquet", pa.Table.from_pylist([*others, first | changed], SUPERVISION)
    )
    with pytest.raises(
        StageError, match=rf"part-0\.parquet: row {len(others) + 1} \(problem .*{said}"
    ):
        export(run, EXPERT, str(out))
    assert not out.exists()


def test_uris_work_like_paths(exported, sampled, tmp_path):
    uri = "memory://interchange/samples.jsonl"
    with pytest.raises(StageError):
        export(Run(str(tmp_path / "empty")), EXPERT, uri)
    assert not fsspec.filesystem("memory").exists(uri)
    export(sampled, EXPERT, uri)
    with fsspec.open(uri, "rb") as stream:
        assert stream.read() == exported[0].read_bytes()
    check_files([uri], EXPERT)
    run, _ = imported("memory://interchange/run", uri)
    assert kept_steps(run) == kept_steps(sampled)
