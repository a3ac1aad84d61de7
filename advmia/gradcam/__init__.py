"""Grad-CAM maps of clean and adversarial images, and pictures of these maps."""
