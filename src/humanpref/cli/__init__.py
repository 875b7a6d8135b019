"""The command line: one file per command or group, with the parser next to its function, and no
other logic."""
