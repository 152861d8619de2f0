"""Commands of README and docs that need a bed: the status that they end with, and words of their output.

Run by test_docs_commands.py beside this file."""

README_FLIP = "cxlbed run --layers 4 --flip 2"
IN_VM = {
    README_FLIP: (1, "step 0, layer 2, row "),
    "cxlbed up direct": (0, "direct"),
    "cxlbed exec direct -- cxl list": (0, "mem0"),
    "cxlbed down direct": (0, ""),
    "cxlbed up remote-numa": (0, "remote-numa"),
    "cxlbed numa --bed remote-numa": (0, "pool on node 1, reader on node 0"),
    "cxlbed down --all": (0, ""),
}
