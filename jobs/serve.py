"""Serve a run's expert and improved expert behind an OpenAI-compatible endpoint until Ctrl-C.

python jobs/serve.py --run runs/demo [--serving.port 8000]
"""

from lr_ray.cli import main
from lr_ray.pipeline import serve

if __name__ == "__main__":
    main(__doc__.splitlines()[0], serve)
