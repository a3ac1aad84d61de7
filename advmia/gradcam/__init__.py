"""Grad-CAM maps of clean and of adversarial images, and the pictures of them."""
