"""What tests of several rooms share: makers of inputs, fakes at our own seams, oracles. Imported as tests.support.NAME."""
