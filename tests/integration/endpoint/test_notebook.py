"""docs/notebook.ipynb from its first cell to its last, on a run of the embedded pair and an endpoint."""

import re
from pathlib import Path

import nbclient
import nbformat

ROOT = Path(__file__).parents[3]


def test_the_notebook_runs(whole, served, monkeypatch):
    monkeypatch.setenv("LR_RAY_RUN", str(whole))
    monkeypatch.setenv("LR_RAY_ENDPOINT", served.url)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs/notebook.ipynb", 4)
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    said = [
        "".join(out.get("text", "") for out in cell.outputs if out.get("name") == "stdout")
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]
    summary, trajectory, thresholds, again, answers = said
    assert summary.startswith("sampling {'problems': 64,")
    assert re.search(r"^ *\d+ '.+' +[\d.]+  '.+' [01]\.\d\d", trajectory, re.MULTILINE)
    assert len(re.findall(r"^ *0\.\d+: +[\d.]+% of \d+ steps$", thresholds, re.MULTILINE)) == 5
    kept = [int(n) for n in re.findall(r"^0\.\d (\d+) of \d+$", again, re.MULTILINE)]
    assert kept[0] > kept[1] > 0
    assert [line.split()[0] for line in answers.splitlines()] == ["expert", "improved"]
    assert "The answer is" in answers.splitlines()[0]
