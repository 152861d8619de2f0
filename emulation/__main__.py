"""`python -m emulation`: the command `cxlbed`."""

from emulation.cli import main

if __name__ == "__main__":
    main()
