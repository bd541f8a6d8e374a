"""`lr-ray train`, for `ray job submit -- python jobs/train.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("train")
