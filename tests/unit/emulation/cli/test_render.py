import json
import shlex
import xml.etree.ElementTree as ET

from tests.support.command import cxlbed


def test_render_prints_xml_that_parses_and_the_chosen_host():
    xml = ET.fromstring(cxlbed("render", "shared-pool", "--host", "b").stdout)
    assert xml.findtext("name") == "shared-pool-b"


def test_render_prints_a_command_line_that_a_shell_reads():
    printed = cxlbed("render", "direct", "--format", "argv", "--folder", "/my beds/one").stdout
    words = shlex.split(printed.replace("\\\n", " "))
    assert words[0] == "/usr/bin/qemu-system-x86_64"
    assert words[words.index("-kernel") + 1] == "/my beds/one/vmlinuz"


def test_render_prints_the_picture_that_the_guest_must_show():
    picture = json.loads(cxlbed("render", "interleaved", "--format", "picture").stdout)
    assert picture["regions"][0]["serials"] == [0xC0, 0xC1]


def test_render_of_an_unknown_host_names_the_hosts():
    done = cxlbed("render", "shared-pool", "--host", "c")
    assert done.returncode == 2
    assert done.stderr == "cxlbed: render: --host=c is no host of 'shared-pool' (hosts: a, b)\n"
