"""The command line. Each command or group has one file, with its parser and the function that runs
it. All other logic is in the other folders of the package."""
