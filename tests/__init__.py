"""A package, so that a dependency that installs its own tests as the package `tests` cannot take the name."""
