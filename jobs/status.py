"""`lr-ray status`, for `ray job submit -- python jobs/status.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("status")
