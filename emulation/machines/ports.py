"""Loopback ports for the hosts' SSH: free now, and given to no other bed. Knows sockets and records."""

import socket

from emulation.machines.record import bed_folders


def free_ports(count: int) -> list[int]:
    """Ports of 127.0.0.1 that nobody listens on and that no bed of this user has been given. Another process may take one
    before it is used: whoever starts a host must be ready for that."""
    given = {host.ssh_port for folder in bed_folders() if (record := folder.read()) for host in record.hosts}
    ports: list[int] = []
    while len(ports) < count:
        port = _unused_port()
        if port not in given and port not in ports:
            ports.append(port)
    return ports


def _unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
