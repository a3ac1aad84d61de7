"""What the scripts do with their flags: one module for each command, and the inputs that they share."""
