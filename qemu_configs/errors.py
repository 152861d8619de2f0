"""What can be wrong with a bed file and what is asked of a bed, one small tree."""


class ConfigError(Exception):
    """Unusable input."""

    exit_status = 2


class BedFileError(ConfigError):
    """A bed file that cannot be used; `problems` holds every finding, worded: owner, field, value, rule, fix."""

    def __init__(self, path: str, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        super().__init__("\n".join(f"{path}: {problem}" for problem in problems))


class ExtentError(ConfigError):
    """An extent of dynamic capacity that its device cannot have. Worded: owner, field, value, rule, fix."""
