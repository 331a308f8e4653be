"""What a graph is written as: one file for each format behind one table."""
