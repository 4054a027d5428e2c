"""What a recipe is worth: the same small model trained on each one's rows, measured on the same held-out text."""
