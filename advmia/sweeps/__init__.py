"""Grids of trainings and tests: planned as steps, run on the devices of this machine or by Slurm, and watched."""
