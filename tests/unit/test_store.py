"""Files appear whole or not at all; a run is one config's and one driver's."""

import errno
import os
import re
import shutil
from types import SimpleNamespace
from typing import ClassVar

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lr_ray.cli.front import run_command
from lr_ray.cli.push import _check_folder
from lr_ray.config import merge, read_tree, resolve
from lr_ray.errors import StageError, UserError
from lr_ray.interop.writing import check_out
from lr_ray.labelling.shards import survey
from lr_ray.pipeline.pipeline import execute
from lr_ray.run.asked import begin
from lr_ray.run.paths import temporary
from lr_ray.run.schemas import REJECTED
from lr_ray.run.store import Run, read_asked, read_summary

FACTS = {"models": {"expert": {"fingerprint": "a"}, "amateur": {"fingerprint": "b"}}}


@pytest.fixture
def run(tmp_path):
    run = Run(str(tmp_path / "run"))
    run.create()
    return run


def config(**sampling):
    return resolve(merge(read_tree("demo"), {"sampling": sampling}))


def rejected(*ids: str) -> pa.Table:
    return pa.table(
        [list(ids), ["a.jsonl"] * len(ids), list(range(len(ids))), ["reason"] * len(ids)],
        schema=REJECTED,
    )


def test_table_round_trip(run):
    run.write_table("rejected/part-1.parquet", rejected("x", "y"))
    assert run.shards("rejected") == ["rejected/part-1.parquet"]
    assert run.read_tables(run.shards("rejected"), REJECTED).equals(rejected("x", "y"))


@pytest.mark.parametrize("location", [None, "memory://bucket/lines"])
def test_lines_and_answers_are_read_as_they_were_written(run, location):
    run, rows = (
        Run(location) if location else run,
        [{"step": 1, "said": "a\nb\u2028c"}, {"step": 2}],
    )
    assert run.read_lines("metrics.jsonl") == []
    run.write_lines("metrics.jsonl", rows)
    assert run.read_lines("metrics.jsonl") == rows
    run.write_table("evaluation/demo.parquet", rejected("x", "y"))
    assert run.answers("demo").equals(rejected("x", "y"))
    assert run.answers("demo", ["row"]).column_names == ["row"]


def test_failed_write_leaves_nothing(run):
    with pytest.raises(TypeError):
        run.write_json("summary.json", {"bad": object()})
    assert os.listdir(run.root) == []


def test_interrupted_write_is_no_shard(run):
    def interrupted() -> None:
        with run._atomic("rejected/part-1.parquet") as path:
            run.fs.touch(path)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert run.shards("rejected") == []
    run.fs.touch(run.path("rejected/.part-2.parquet.0.tmp"))  # what kill -9 leaves
    assert run.shards("rejected") == []


@pytest.fixture
def order(monkeypatch) -> list[tuple[str, str]]:
    """What is synced and what takes its final name, in order; temporary names without their random part."""
    calls, fsync, replace = [], os.fsync, os.replace

    def plain(path: str) -> str:
        return re.sub(r"\.[0-9a-f]{8}\.tmp", ".tmp", str(path))

    def synced(file: int) -> None:
        fsync(file)
        calls.append(("sync", plain(os.readlink(f"/proc/self/fd/{file}"))))

    def replaced(before: str, after: str) -> None:
        replace(before, after)
        calls.append(("name", plain(after)))

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    return calls


def test_content_is_on_the_disk_before_it_has_its_name(run, tmp_path, order):
    root = run.root
    run.write_json("summary.json", {})
    (tmp_path / "weights").write_text("{}")
    run.put_file(str(tmp_path / "weights"), "weights")
    for name in ("summary.json", "weights"):
        done = [("sync", f"{root}/.{name}.tmp"), ("name", f"{root}/{name}"), ("sync", root)]
        assert order[:3] == done
        del order[:3]
    assert order == []


def test_all_of_a_folder_is_on_the_disk_before_it_has_its_name(run, tmp_path, order):
    for name in ("model/a", "model/inner/b"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    run.put_folder(str(tmp_path / "model"), "model")
    copy = f"{run.root}/.model.tmp"
    assert {path for _, path in order[:-2]} == {
        copy, f"{copy}/a", f"{copy}/inner", f"{copy}/inner/b"
    }  # fmt: skip
    assert order[-2:] == [("name", run.path("model")), ("sync", run.root)]


def test_a_file_system_that_syncs_no_folders_is_written_to(run, monkeypatch):
    fsync = os.fsync

    def refuses(file: int) -> None:  # as Linux does for folders of CIFS
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(file)

    monkeypatch.setattr(os, "fsync", refuses)
    run.write_json("summary.json", {"a": 1})
    assert run.read_json("summary.json") == {"a": 1}


def test_what_the_disk_does_not_take_has_no_name(run, monkeypatch):
    def full(file: int) -> None:  # which NFS says no earlier
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        run.write_json("summary.json", {})
    assert os.listdir(run.root) == []


@pytest.mark.parametrize(
    "name",
    ["part-1.parquet.swp", "part-1.parquet~", "part-1.parquet.bak", "part-1.parquet.crc", "part-1",
     ".part-1.parquet.Xa3f", "Copy of part-1.parquet", "part-1.parquet.jsonl", "part-1.PARQUET"],
)  # fmt: skip
def test_what_editors_and_copies_leave_is_no_shard(run, name):
    run.write_table("rejected/part-1.parquet", rejected("x"))
    run.fs.pipe_file(run.path(f"rejected/{name}"), b"x")
    assert run.shards("rejected") == ["rejected/part-1.parquet"]


def test_truncated_shard_is_named(run):
    run.write_table("rejected/part-1.parquet", rejected("x"))
    with open(run.path("rejected/part-1.parquet"), "r+b") as file:
        file.truncate(40)
    with pytest.raises(StageError, match=r"part-1\.parquet: not a whole shard"):
        run.read_tables(run.shards("rejected"), REJECTED)


def test_folder_replaces_an_older_one(run, tmp_path):
    for content in ("old", "new"):
        source = tmp_path / content
        source.mkdir()
        (source / content).write_text(content)
        run.put_folder(str(source), "model")
    assert os.listdir(run.path("model")) == ["new"]


def test_what_a_killed_copy_of_a_folder_left_is_removed(run, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for left in (".model.0123abcd.tmp/shards", ".adapter.0123abcd.tmp"):
        run.fs.makedirs(run.path(left))
    run.put_folder(str(source), "model")
    assert not run.exists(".model.0123abcd.tmp")
    assert run.exists(".adapter.0123abcd.tmp")


def test_second_driver_is_refused(run):
    with run.lock(), pytest.raises(UserError, match="another process"), Run(run.location).lock():
        pass
    with run.lock():
        pass


def test_changed_config_is_refused_by_name(run):
    begin(run, config(), FACTS)
    begin(run, config(kl_threshold=0.7), FACTS)  # nothing was made with 0.1
    begin(run, config(), FACTS)
    run.write_bytes("supervision/part-1.parquet", b"")
    with pytest.raises(
        UserError,
        match=r"another sampling\.kl_threshold = 0\.1 \(now 0\.3\), and labelling would be made again",
    ):
        begin(run, config(kl_threshold=0.3), FACTS)
    with pytest.raises(UserError, match="made again; give another --run, or the values in its run"):
        begin(run, config(kl_threshold=0.3), FACTS)  # commands without --yes come here
    other = {"models": {"expert": {"fingerprint": "z"}, "amateur": {"fingerprint": "b"}}}
    with pytest.raises(UserError, match=r"model behind models\.expert"):
        begin(run, config(), other)


def test_a_part_of_the_summary_that_is_null_is_missing(run):
    assert read_summary(run) == {}
    run.write_json("summary.json", {"sampling": None, "training": {"loss": 1}})
    assert read_summary(run) == {"training": {"loss": 1}}


@pytest.mark.parametrize(
    ("part", "must"),
    [
        ({"sampling": []}, r"sampling = \[\]: must be an object"),
        ({"shared": "runs/a"}, "shared = 'runs/a': must be an object"),
        ({"seconds_total": {}}, r"seconds_total = {}: must be a number"),
    ],
)
def test_a_part_of_the_summary_of_another_kind_is_named(run, part, must):
    run.write_json("summary.json", {"training": {"loss": 1}, **part})
    with pytest.raises(
        UserError, match=rf"/summary\.json: .* {must}; put the run's own file there"
    ):
        read_summary(run)


@pytest.mark.parametrize(
    "text", ["null", "[]", "3", "{", "", '"a"', "[" * 100_000, "\xff", '{"a": NaN}']
)
def test_a_summary_that_is_no_object_is_one_line(run, text):
    run.fs.pipe_file(run.path("summary.json"), text.encode("latin-1"))
    with pytest.raises(
        UserError, match=r"summary\.json: (cannot be read: .|not a JSON object)"
    ) as error:
        read_summary(run)
    assert "\n" not in str(error.value)


def test_unusable_locations_are_one_line(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match="give a directory"):
        Run(str(file / "run")).create()
    with pytest.raises(UserError, match="nosuch"):
        Run("nosuch://bucket/run")


def test_no_location_is_not_the_current_folder():
    for location in ("", " "):
        with pytest.raises(UserError, match=r"^--run: is empty; give a directory or URI$"):
            Run(location)


@pytest.mark.parametrize(
    "location",
    ["zip://x", "github://x", "reference://x", "ftp://127.0.0.1:1/x", "dir://x", "cached://x", "git://x", "nosuch://x"],
)  # fmt: skip
@pytest.mark.parametrize("option", ["--run", "--rates"])
def test_a_location_that_no_file_system_opens_is_one_line(location, option):
    with pytest.raises(
        UserError, match=rf"^{option} {location}: cannot be opened: .+; give"
    ) as error:
        Run(location, option)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["model", "adapter", "supervision", "checkpoints"])
def test_a_link_to_what_is_not_there_is_named_before_a_stage_begins(run, name):
    begin(run, config(), FACTS)
    os.symlink("/gone/there", run.path(name))
    said = rf"/{name}: is a link to /gone/there, which is not there; remove the link, or"
    with pytest.raises(UserError, match=said):
        execute(config(), run, ("evaluation",), "demo")


def test_the_home_of_nobody_is_no_place_for_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = r" ~no-such-user/x: no such directory: ~no-such-user is nobody's; give another$"
    with pytest.raises(UserError, match=f"^--run{said}"):
        Run("~no-such-user/x")
    with pytest.raises(UserError, match=f"^--out{said}"):
        check_out("~no-such-user/x", overwrite=False)
    assert os.listdir() == []
    assert Run("~").root == os.path.expanduser("~")


def test_nothing_is_written_into_a_jobs_copy_of_its_working_directory(tmp_path, monkeypatch):
    folder = tmp_path / "session_x/runtime_resources/working_dir_files/_ray_pkg_1"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for option, write in {
        "--run": lambda: Run("x").create(),
        "--out": lambda: check_out("x", overwrite=False),
        "--to": lambda: _check_folder("x"),
    }.items():
        with pytest.raises(
            UserError, match=rf"^{option} x: lies in the .* job's copy of its working"
        ):
            write()
    assert os.listdir() == []
    check_out(str(tmp_path / "x"), overwrite=False)


class Broken(MemoryFileSystem):
    """Answers nothing, by an error that is no OSError."""

    protocol = "broken"

    def info(self, path, **kwargs):
        raise EOFError("the line is dead.\nas it were")

    def makedirs(self, path, exist_ok=False):
        self.info(path)

    cat_file = exists = info


def test_a_store_that_does_not_answer_is_one_line():
    fsspec.register_implementation("broken", Broken, clobber=True)
    run = Run("broken://bucket/run")
    for name, ask in {"looked for": run.exists, "read": run.read_json}.items():
        with pytest.raises(UserError) as error:
            ask("run.json")
        assert (
            str(error.value) == f"broken://bucket/run/run.json: cannot be {name}: the line is dead"
        )
    with pytest.raises(UserError, match=r"^--run broken://bucket/run: the line is dead; give a"):
        run.create()


def test_memory_filesystem_works_like_a_local_one():
    run = Run("memory://bucket/run")
    run.create()
    run.write_json("summary.json", {"a": 1})
    run.write_table("rejected/part-1.parquet", rejected("x"))
    assert run.read_json("summary.json") == {"a": 1}
    assert run.read_tables(run.shards("rejected"), REJECTED).num_rows == 1


class Caching(MemoryFileSystem):
    """Keeps listings, as those of object stores do."""

    protocol = "caching"
    listings: ClassVar[dict] = {}

    def ls(self, path, detail=True, **kwargs):
        key = (path.rstrip("/"), detail)
        if key not in self.listings:
            self.listings[key] = super().ls(path, detail=detail, **kwargs)
        return self.listings[key]

    def invalidate_cache(self, path=None):
        self.listings.clear()


def test_shards_that_others_wrote_meanwhile_are_seen():
    fsspec.register_implementation("caching", Caching, clobber=True)
    run = Run("caching://bucket/seen")
    run.write_table("rejected/part-1.parquet", rejected("x"))
    assert run.shards("rejected") == ["rejected/part-1.parquet"]
    run.write_table("rejected/part-2.parquet", rejected("y"))
    assert run.shards("rejected") == ["rejected/part-1.parquet", "rejected/part-2.parquet"]


def test_facts_of_a_shard_are_read_without_its_rows(tmp_path):
    run = Run(str(tmp_path))
    run.write_table("rejected/part-1.parquet", rejected("x"), {"problems": [3], "top_k": 7})
    assert run.read_facts("rejected/part-1.parquet") == {"problems": [3], "top_k": 7}
    assert run.read_tables(run.shards("rejected"), REJECTED).num_rows == 1
    run.write_table("rejected/part-2.parquet", rejected("y"))
    assert run.read_facts("rejected/part-2.parquet") == {}
    (tmp_path / "rejected/part-3.parquet").write_bytes(b"PAR1")
    with pytest.raises(StageError, match=r"part-3\.parquet: not a whole shard"):
        run.read_facts("rejected/part-3.parquet")


@pytest.mark.parametrize("footer", [b"{", b"7", b"[3]", b"\xff"])
def test_a_footer_that_is_not_ours_is_named(tmp_path, footer):
    run = Run(str(tmp_path))
    run.write_table(
        "rejected/part-1.parquet", rejected("x").replace_schema_metadata({b"lr_ray": footer})
    )
    with pytest.raises(
        UserError, match=r"part-1\.parquet: holds something else than lr_ray writes"
    ) as e:
        run.read_facts("rejected/part-1.parquet")
    assert "\n" not in str(e.value)
    for facts in (
        {"problems": "x", "facts": {}},
        {"problems": [0], "facts": {"of": 1}},
        {"problems": [0]},
    ):
        run.write_table("rejected/part-1.parquet", rejected("x"), facts)
        with pytest.raises(
            UserError, match=r"part-1\.parquet: holds something else than lr_ray writes"
        ):
            survey(run, 2)


@pytest.mark.parametrize("lines", [b'{"step": 1}\n{"st', b"7\n", b"[7]\n", b"\xff\n"])
def test_lines_that_are_not_ours_are_named(tmp_path, lines):
    run = Run(str(tmp_path))
    run.write_bytes("metrics.jsonl", lines)
    with pytest.raises(
        UserError, match=r"metrics\.jsonl: holds something else than lr_ray writes there: "
    ):
        run.read_lines("metrics.jsonl")


@pytest.mark.parametrize("location", ["memory://bucket/run", "memory://bucket/run/"])
def test_a_child_is_on_the_same_file_system(location):
    child = Run(location).child("variants/one-0")
    assert not child.is_local
    child.write_json("summary.json", {"a": 1})
    assert Run(location).read_json("variants/one-0/summary.json") == {"a": 1}


@pytest.mark.parametrize(
    "models", [[], "x", None, {"expert": None}, {"expert": "a", "amateur": {}}]
)
def test_models_of_another_form_in_run_json_are_one_line(run, models):
    run.write_json("run.json", {"schema_version": 1, "config": {}, "models": models})
    with pytest.raises(
        UserError, match=r"/run\.json: models = .*: must be an object of objects; put"
    ):
        read_asked(run)


def test_versions_of_another_form_in_run_json_are_one_line(run):
    run.write_json("run.json", {"schema_version": 1, "config": {}, "versions": ["0.1"]})
    with pytest.raises(
        UserError, match=r"/run\.json: versions = \['0\.1'\]: must be an object; put"
    ):
        read_asked(run)


def test_a_file_in_place_of_the_logs_is_one_line(run):
    run.write_bytes("logs", b"")
    with pytest.raises(UserError, match=r"^--run .*: logs: File exists; must be a folder"):
        run.log_path()


@pytest.mark.parametrize("content", [None, b"", b"cut"])
def test_answers_that_cannot_be_read_are_one_line(run, content):
    if content is not None:
        run.write_bytes("evaluation/demo.parquet", content)
    with pytest.raises(
        StageError, match=r"/evaluation/demo\.parquet: cannot be read: .+; put the run's own"
    ):
        run.answers("demo")


@pytest.mark.parametrize(("free", "told"), [(4096, True), (10**9, False)])
def test_the_disk_of_temporary_files_is_named_where_it_is_the_full_one(monkeypatch, free, told):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(StageError if told else OSError) as error, temporary() as folder:
        raise full
    said = f"{os.path.dirname(folder)}: no space left; make room there, or name another folder with TMPDIR"
    assert str(error.value) == said if told else error.value is full
    assert not os.path.exists(folder)


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_run_is_itself_however_it_is_written(tmp_path, monkeypatch, capsys, command):
    monkeypatch.chdir(tmp_path)
    assert run_command([command, "--config", "demo", "--run", "run", "--from", "./run"]) == 2
    assert re.match(
        r"error: --from \./run: is the (run|comparison) itself; give", capsys.readouterr().err
    )
    assert not os.path.exists("run")


def test_a_slash_at_the_end_makes_no_other_run(tmp_path):
    run = Run(f"{tmp_path}/run//")
    run.create()
    assert (run.location, run.path("a")) == (f"{tmp_path}/run", f"{tmp_path}/run/a")
    with pytest.raises(UserError, match=rf"^--from {tmp_path}/run: is the run itself; give "):
        execute(
            resolve(read_tree("demo")), run, ("sampling",), "demo", source=Run(f"{tmp_path}/run")
        )
    assert (Run("/").location, Run("memory://run/").location) == ("/", "memory://run/")
