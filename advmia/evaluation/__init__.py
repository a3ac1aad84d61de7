"""Scores a network on a list, clean or under an attack, and checks whether the scores can be trusted."""
