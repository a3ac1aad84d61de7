"""Evaluation: scores a network, clean and under attack, and checks whether the scores can be trusted."""
