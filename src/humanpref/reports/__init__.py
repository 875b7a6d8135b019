"""Charts, tables and pages for people to read. The studies also draw with these charts."""
