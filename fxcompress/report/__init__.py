"""Text for people: tables, the rows of a report, numbers with units, options as they would be written.

In: numbers and dataclasses. Out: strings and `rich` tables.

Imports: errors.
"""
