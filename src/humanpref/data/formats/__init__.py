"""Formats of pairs. For each set of text columns, one module turns the raw cells of a row into a
prompt and two responses. `detect` finds the format of a table."""
