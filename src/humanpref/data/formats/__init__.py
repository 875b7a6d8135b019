"""The formats in which people have pairs. Each has a module that turns the raw cells of a row into
a prompt and two responses. `detect` finds the format of a table."""
