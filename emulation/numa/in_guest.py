"""Carries the witness into a guest and hears it there. Knows a Session and the witness's files, no bed and no libvirt."""

import json
from pathlib import Path
from typing import Any

from guest.session import PYTHON_PATH, Session

_PACKAGE = Path(__file__).parent.parent
_FILES = ("__init__.py", "errors.py", "numa/__init__.py", "numa/nodes.py", "numa/placement.py", "numa/witness.py")


def hear_witness(session: Session, size_bytes: int) -> dict[str, Any]:
    """What `emulation.numa.witness` says in the guest. Raises CommandError, with its words, where it found fault."""
    for name in _FILES:
        session.put(_PACKAGE / name, f"{PYTHON_PATH}/emulation/{name}")
    testimony: dict[str, Any] = json.loads(session.python("emulation.numa.witness", [str(size_bytes)]).stdout)
    return testimony
