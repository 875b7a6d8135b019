"""The dry run: both kernels in a sandbox on this machine."""
