"""The training methods, the training loop, and the validation after each epoch."""
