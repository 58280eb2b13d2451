"""Whether a written file computes what the simulation does: it is run in its runtime, in a process of its own.

In: a file, the lowered graph in it, example inputs. Out: a row of the report, a warning or an error that names the first
node that differs.

Imports: report, storage, ir, data, quantizers, execution, quantization, emit.
"""
