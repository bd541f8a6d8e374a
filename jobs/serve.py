"""`lr-ray serve`, for `ray job submit -- python jobs/serve.py ...`."""

from lr_ray.cli.front import job

if __name__ == "__main__":
    job("serve")
