"""What can be wrong with a bed file, one small tree."""


class BedFileError(Exception):
    """A bed file that cannot be used; `problems` holds every finding, worded: owner, field, value, rule, fix."""

    exit_status = 2

    def __init__(self, path: str, problems: list[str]) -> None:
        self.path = path
        self.problems = problems
        super().__init__("\n".join(f"{path}: {problem}" for problem in problems))


class ExtentError(Exception):
    """An extent of dynamic capacity that its device cannot have. Worded: owner, field, value, rule, fix."""

    exit_status = 2
