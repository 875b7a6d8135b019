"""The command line: one file per command or group, each parser beside its function, no logic."""
