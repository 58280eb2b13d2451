"""Configuration files of NNCF 2: what they ask for as passes, with NNCF's defaults.

In: a document. Out: passes, inputs, settings of other programs, and notes on what was ignored.

Imports: documents, pattern, quantizers, training, driver, passes.
"""

from fxcompress.nncf_files.reader import NncfFile, is_nncf_file, read_nncf_file

__all__ = ["NncfFile", "is_nncf_file", "read_nncf_file"]
