"""The names of other libraries, over this one: scripts that were written for them run as they are.

In: their configurations and calls. Out: compiled models and controllers under their names.

Imports: documents, data, capture, quantizers, training, passes, nncf_files, config, compiled, parts, integrations,
inplace.
"""
