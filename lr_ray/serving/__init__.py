"""Several models behind one OpenAI-compatible endpoint, with `ray.serve.llm`.

guard.py stands before it, ingress.py routes, application.py says what runs where, endpoint.py starts
and ends it, watch.py looks after it.
"""

from lr_ray.serving.endpoint import base_url, check_port, drain, make_way, start, stop
from lr_ray.serving.watch import Watch
