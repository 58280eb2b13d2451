"""A layered drawing: places for boxes, routes for wires. Knows nothing of what is drawn."""
