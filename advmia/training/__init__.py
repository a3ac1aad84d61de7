"""Training: the methods, the loop, the validation after each epoch, and the picture of its curves."""
