"""A package, since other folders have tests of the same names."""
