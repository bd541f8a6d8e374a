"""`lr-ray sample`, for `ray job submit -- python jobs/sample.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("sample")
