"""A run's figures for people: on the terminal at the end of a job, and as a page in the run.

pytest tests/unit/test_results.py
"""

from lr_ray.report.card import write_cards
from lr_ray.report.page import PAGE, write_page
from lr_ray.report.placement import placement_line
from lr_ray.report.terminal import print_summary, sampling_line, training_line
from lr_ray.report.tracked import tell_trackers
