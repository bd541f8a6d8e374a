"""`lr-ray evaluate`, for `ray job submit -- python jobs/evaluate.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("evaluate")
