"""Weights on disk: a bare state_dict, as the reference writes it, and beside it a record of how it came about."""

from __future__ import annotations

from pathlib import Path


def state_path(checkpoint: Path) -> Path:
    """`<checkpoint>.state`; the name is full of dots, so it is appended, not replaced."""
    return checkpoint.with_name(checkpoint.name + ".state")


def record_path(checkpoint: Path) -> Path:
    """`<checkpoint>.json`; the name is full of dots, so it is appended, not replaced."""
    return checkpoint.with_name(checkpoint.name + ".json")


def picture_path(checkpoint: Path) -> Path:
    """`<checkpoint>.png`; the name is full of dots, so it is appended, not replaced."""
    return checkpoint.with_name(checkpoint.name + ".png")
