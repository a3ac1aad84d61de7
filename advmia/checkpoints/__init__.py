"""Trained networks on disk: settings, weights, the record of the best epoch, and the state to resume from."""
