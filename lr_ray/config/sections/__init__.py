"""The sections of the config: every field with its bounds, default and meaning."""

from lr_ray.config.sections.common import Fields
from lr_ray.config.sections.data import Data
from lr_ray.config.sections.evaluation import Evaluation
from lr_ray.config.sections.models import Models
from lr_ray.config.sections.sampling import Pool, Rejection, Sampling
from lr_ray.config.sections.serving import Serving
from lr_ray.config.sections.training import Training
