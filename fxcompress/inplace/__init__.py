"""Compression of the user's own instance: a compiled graph's quantizers and masks, and its forward, put into the module.

In: a module and the compiled model made of it. Out: the same instance, which computes the compressed graph.

Imports: report, ir, data, capture, training, driver, defaults, config, compiled, parts, compiler, integrations.
"""
