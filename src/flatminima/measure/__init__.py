"""Measure a trained network by name, whoever made it, and keep what was measured."""

from flatminima.measure.measurement import measure
from flatminima.measure.settings import Settings
from flatminima.measure.table import MEASURES
from flatminima.measure.target import Target, of_run, of_user

__all__ = ["MEASURES", "Settings", "Target", "measure", "of_run", "of_user"]
