"""Charts, tables and pages for people to read. The studies draw with the charts here."""
