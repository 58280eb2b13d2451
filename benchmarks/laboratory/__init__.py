"""The laboratory: compression with fine-tuning, every method and stack, on real images."""
