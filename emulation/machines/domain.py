"""The one home of libvirt. Runs as a process of its own: one request in on stdin, one reply out on stdout, both JSON.

Why a process: an embedded driver takes one root folder for the life of its process, and each bed has a root of its own;
and libvirt writes its log to stderr, which here goes to the bed's folder and not to the user's terminal. Knows domains, not
beds.
"""

import json
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import libvirt
import libvirt_qemu

from guest.deadline import Deadline

LOCK_DEADLINE_S = 30.0  # how long to wait for another process that has the same embedded root open
STATE_NAMES = {
    libvirt.VIR_DOMAIN_RUNNING: "running",
    libvirt.VIR_DOMAIN_PAUSED: "paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "shutting down",
    libvirt.VIR_DOMAIN_SHUTOFF: "off",
    libvirt.VIR_DOMAIN_CRASHED: "crashed",
}


def main() -> None:
    """Answer the one request on stdin: `{"uri": ..., "verb": ..., ...}` with `{"ok": ...}` or `{"error": ...}`."""
    request = json.load(sys.stdin)
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    try:
        connection = _open(request["uri"])
        reply = {"ok": _VERBS[request["verb"]](connection, request)}
    except libvirt.libvirtError as error:
        reply = {"error": str(error)}
    print(json.dumps(reply))  # noqa: T201


def _open(uri: str) -> libvirt.virConnect:
    """Open `uri`; an embedded root that another process has open is waited for, with a deadline."""
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_turn_event_loop, daemon=True).start()
    for _ in Deadline.after(LOCK_DEADLINE_S).polls(0.1):
        try:
            return libvirt.open(uri)
        except libvirt.libvirtError as error:
            if "driver.pid" not in str(error):
                raise
            failure = error
    raise failure


def _turn_event_loop() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def _start(connection: libvirt.virConnect, request: dict[str, Any]) -> list[str]:
    """Create transient domains from XML files, side by side; all of them run afterwards or an error is raised."""
    xmls = [Path(path).read_text() for path in request["xml_paths"]]
    with ThreadPoolExecutor(max_workers=len(xmls)) as pool:
        domains = list(pool.map(lambda xml: connection.createXML(xml, 0), xmls))
    return [domain.name() for domain in domains]


def _states(connection: libvirt.virConnect, request: dict[str, Any]) -> dict[str, str]:
    """The state of each of `names` that exists."""
    wanted = set(request["names"])
    found = {domain.name(): domain for domain in connection.listAllDomains() if domain.name() in wanted}
    return {name: STATE_NAMES.get(domain.state()[0], "unknown") for name, domain in found.items() if _answers(domain)}


def _answers(domain: libvirt.virDomain) -> bool:
    """Whether QEMU itself answers: right after an embedded root was opened, one that was killed still counts as running."""
    try:
        libvirt_qemu.qemuMonitorCommand(domain, '{"execute": "query-status"}', 0)
    except libvirt.libvirtError:
        return False
    return True


def _destroy(connection: libvirt.virConnect, request: dict[str, Any]) -> list[str]:
    """Destroy those of `names` that exist, side by side: each waits for its QEMU to end."""

    def destroy(name: str) -> None:
        try:
            connection.lookupByName(name).destroy()
        except libvirt.libvirtError as error:
            # Right after an embedded root was opened, a domain that was destroyed is reported as not found.
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise

    names: list[str] = request["names"]
    with ThreadPoolExecutor(max_workers=len(names)) as pool:
        list(pool.map(destroy, names))
    return names


def _monitor(connection: libvirt.virConnect, request: dict[str, Any]) -> Any:
    """One QMP command to one domain; returns QMP's own `return`."""
    domain = connection.lookupByName(request["name"])
    reply = json.loads(libvirt_qemu.qemuMonitorCommand(domain, json.dumps(request["command"]), 0))
    if "error" in reply:
        raise libvirt.libvirtError(f"QMP {request['command']['execute']}: {reply['error']['desc']}")
    return reply["return"]


_VERBS: dict[str, Callable[[libvirt.virConnect, dict[str, Any]], Any]] = {
    "start": _start,
    "states": _states,
    "destroy": _destroy,
    "monitor": _monitor,
}

if __name__ == "__main__":
    main()
