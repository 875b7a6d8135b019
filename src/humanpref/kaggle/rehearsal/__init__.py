"""The dry run: run both kernels in a sandbox on this machine."""
