"""Data sets: what they consist of, their lists, cached images, batches, official downloads and phantoms."""
