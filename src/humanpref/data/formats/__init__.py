"""The formats in which people have pairs: one file for each, which turns the raw cells of a row
into a prompt and two responses. `detect` tells which format a table has."""
