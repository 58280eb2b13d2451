"""What each command of the command line does.

In: parsed arguments. Out: files, and what is printed.

Imports: report, storage, views, data, driver, emit, conformance, measure, passes, defaults, config, compiled, demo,
demo.
"""
