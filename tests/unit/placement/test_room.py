"""What nodes are asked before a stage begins on them; nothing here starts Ray."""

from types import SimpleNamespace

import pytest
import ray

from lr_ray.errors import StageError
from lr_ray.placement import check_model, room


def test_a_node_that_may_load_a_model_must_see_it(tmp_path, monkeypatch):
    nodes = [
        {"NodeID": name, "NodeManagerAddress": f"10.0.0.{i}", "Resources": resources}
        for i, (name, resources) in enumerate(
            {"head": {}, "small": {"CPU": 4.0}, "large": {"CPU": 4.0, "GPU": 1.0}}.items()
        )
    ]
    sees = {"small": False, "large": True}
    asked = []

    def ask(these, question, folder, within_s):
        assert question(str(tmp_path))
        assert not question(f"{tmp_path}/none")
        asked.append(names := [node["NodeID"] for node in these])
        return {name: sees[name] for name in names}

    monkeypatch.setattr(room, "nodes", lambda: nodes)
    monkeypatch.setattr(room, "ask_nodes", ask)
    context = SimpleNamespace(get_node_id=lambda: "head")
    monkeypatch.setattr(ray, "get_runtime_context", lambda: context)
    check_model("/models/expert", [{"GPU": 1.0, "CPU": 1.0}])
    assert asked == [["large"]]  # the other one loads none
    sees["large"] = ConnectionError("it went away")  # its work is done elsewhere
    check_model("/models/expert", [{"GPU": 1.0, "CPU": 1.0}])
    with pytest.raises(StageError) as raised:
        check_model("/models/expert", [{"CPU": 1.0}])
    assert str(raised.value) == (
        "/models/expert: is not seen on node 10.0.0.1, which may have to load this model; all nodes must "
        "share its folder: HF_HOME for a hub's models, TMPDIR for those of a run in a bucket"
    )
