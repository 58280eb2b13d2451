"""Measurements of fxcompress, side by side with its peers where it has any."""
