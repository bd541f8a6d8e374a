"""`lr-ray doctor`, for `ray job submit -- python jobs/doctor.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("doctor")
