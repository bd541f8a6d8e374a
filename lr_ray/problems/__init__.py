"""Problems to sample from: read once from their source, checked, and staged in the run directory.

rows.py says what a usable row is, benchmarks.py, sources.py and gym.py where rows come from, files.py and
hub.py read them, order.py drops repeats and shuffles, staging.py writes and reads the staged parts,
rejections.py says which rows were none.
Exercised by `pytest tests/unit/test_problems*.py`.
"""

from lr_ray.problems.rejections import check_rows, write_rejections
from lr_ray.problems.rows import PROBLEM
from lr_ray.problems.sources import check_source
from lr_ray.problems.staging import INDEX, count_problems, read_index, read_problems, stage_problems
