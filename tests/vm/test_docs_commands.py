"""Commands of README and docs that need a bed, in the order in which they are shown."""

import re
from pathlib import Path

from tests.vm.docs_commands import IN_VM, README_FLIP

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_commands_that_need_a_bed_do_what_the_documents_say(cxlbed):
    for command, (status, words) in IN_VM.items():
        ended = cxlbed(*command.split()[1:])
        assert ended.returncode == status, f"{command}: {ended.stdout}{ended.stderr}"
        assert words in ended.stdout + ended.stderr, f"{command}: {ended.stdout}"
        if command == README_FLIP:
            (sentence,) = re.findall(rf"`{command}` says\s+`(step 0, layer 2, row \d+): \.\.\.`", README)
            assert sentence in ended.stdout
