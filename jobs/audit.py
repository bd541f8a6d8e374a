"""`lr-ray audit`, for `ray job submit -- python jobs/audit.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("audit")
