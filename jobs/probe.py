"""`lr-ray probe`, for `ray job submit -- python jobs/probe.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("probe")
