"""Adversarial attacks on, and adversarial training and robust evaluation of, medical image networks."""

__version__ = "0.1.0"
