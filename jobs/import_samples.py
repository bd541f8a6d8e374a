"""`lr-ray import`, for `ray job submit -- python jobs/import_samples.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("import")
