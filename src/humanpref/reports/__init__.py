"""What is shown to people: charts, tables and pages. The studies draw with the charts here."""
