"""Data sets: their declarations, lists, cached images, batches, official downloads and phantoms."""
