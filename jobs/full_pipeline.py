"""`lr-ray run`, for `ray job submit -- python jobs/full_pipeline.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("run")
