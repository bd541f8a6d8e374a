"""All tests that are not long, in two pytest processes side by side: python -m tests.side_by_side [ARGUMENTS]

Files that share an engine pair and its cluster (the fixture ray_cluster) are one process's, all others the
other one's. The first one's output comes when it has ended.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def shared() -> list[str]:
    """Files of tests/integration that ask for the cluster, or for a fixture that is made on it."""
    files = sorted((ROOT / "tests" / "integration").glob("test_*.py"))
    asking = ("ray_cluster", "sampled", "whole")
    return [str(f.relative_to(ROOT)) for f in files if any(a in f.read_text() for a in asking)]


def main() -> int:
    command = [sys.executable, "-m", "pytest", "-m", "not long", *sys.argv[1:]]
    apart = [f"--ignore={file}" for file in shared()]
    with tempfile.TemporaryFile("w+") as said:
        first = subprocess.Popen([*command, *shared()], stdout=said, stderr=said, cwd=ROOT)
        try:
            second = subprocess.run([*command, "tests", *apart], cwd=ROOT)
            code = first.wait()
        finally:
            first.terminate()
        said.seek(0)
        print(said.read())
    return code or second.returncode


if __name__ == "__main__":
    sys.exit(main())
