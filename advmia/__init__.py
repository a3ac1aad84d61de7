"""Adversarial attacks, adversarial training and robust evaluation for medical image analysis."""

__version__ = "0.1.0"
