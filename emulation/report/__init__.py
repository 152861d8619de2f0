"""Tables, plots and pages made from labelled results."""
