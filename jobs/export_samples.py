"""`lr-ray export`, for `ray job submit -- python jobs/export_samples.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("export")
