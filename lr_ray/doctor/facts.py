"""What is so on a node: gathered by libraries and the operating system, judged elsewhere."""

from lr_ray.doctor.nvidia import Gpu, gpus

__all__ = ["Gpu", "gpus"]
