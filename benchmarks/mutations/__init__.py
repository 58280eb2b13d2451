"""Whether the tests see faults: one small change of the source at a time, and the tests of what was changed."""
