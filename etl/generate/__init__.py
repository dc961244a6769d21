"""Invented input of any size for tests and measurements, with the shape and skew of real exports."""

from etl.generate.writer import SHAPES, GenerateResult, generate

__all__ = ["SHAPES", "GenerateResult", "generate"]
