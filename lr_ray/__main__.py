"""`python -m lr_ray` is `lr-ray`."""

from lr_ray.cli.front import main

if __name__ == "__main__":
    main()
