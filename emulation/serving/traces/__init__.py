"""Request traces: files of the field, one reader per format behind one interface (docs/traces.md)."""
