"""Graphs as people and other programs read them: text, DOT, GraphML, pictures.

In: a graph module. Out: text and SVG, written to files.

Imports: storage, ir.
"""
