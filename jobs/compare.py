"""`lr-ray compare`, for `ray job submit -- python jobs/compare.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("compare")
