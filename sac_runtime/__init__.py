"""Reference runtime of SAC: a disaggregated KV cache that fetches only the top-k entries from a CXL pool.

Imports nothing of the testbed. In a guest it needs numpy and its native library alone. What `__all__` names is the public surface;
each name is loaded when it is first asked for, so that a part of the package can be imported without numpy. Everything else may
change between releases.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers; at run time __getattr__ loads the names
    from sac_runtime.errors import SacError
    from sac_runtime.fetch.hot_buffer import Counters, HotBuffer
    from sac_runtime.fetch.request import FetchConfig, RequestKv
    from sac_runtime.fetch.residency import Residency
    from sac_runtime.fetch.step import AttentionQuery, LayerQuery, LayerStep, attend_chosen, step
    from sac_runtime.label import Label
    from sac_runtime.memory.backing import Backing
    from sac_runtime.memory.checked import CheckedStore
    from sac_runtime.memory.mapped import MappedStore
    from sac_runtime.memory.spec import StoreSpec
    from sac_runtime.memory.store import KvStore, Plan, SlotGather
    from sac_runtime.pool.block_hash import chain_hashes
    from sac_runtime.pool.format import PoolGeometry
    from sac_runtime.pool.pool import Pool
    from sac_runtime.pool.reader import PoolReader
    from sac_runtime.pool.sequence import PoolSequence
    from sac_runtime.rows.layout import KvLayout, Quantiser
    from sac_runtime.rows.placement import LayerFirst, RowTable
    from sac_runtime.rows.quantise import pack_rows, unpack_rows

__all__ = [
    "AttentionQuery",
    "Backing",
    "CheckedStore",
    "Counters",
    "FetchConfig",
    "HotBuffer",
    "KvLayout",
    "KvStore",
    "Label",
    "LayerFirst",
    "LayerQuery",
    "LayerStep",
    "MappedStore",
    "Plan",
    "Pool",
    "PoolGeometry",
    "PoolReader",
    "PoolSequence",
    "Quantiser",
    "RequestKv",
    "Residency",
    "RowTable",
    "SacError",
    "SlotGather",
    "StoreSpec",
    "attend_chosen",
    "chain_hashes",
    "pack_rows",
    "step",
    "unpack_rows",
]

_HOMES = {
    "sac_runtime.errors": ("SacError",),
    "sac_runtime.fetch.hot_buffer": ("Counters", "HotBuffer"),
    "sac_runtime.fetch.request": ("FetchConfig", "RequestKv"),
    "sac_runtime.fetch.residency": ("Residency",),
    "sac_runtime.fetch.step": ("AttentionQuery", "LayerQuery", "LayerStep", "attend_chosen", "step"),
    "sac_runtime.label": ("Label",),
    "sac_runtime.memory.backing": ("Backing",),
    "sac_runtime.memory.checked": ("CheckedStore",),
    "sac_runtime.memory.mapped": ("MappedStore",),
    "sac_runtime.memory.spec": ("StoreSpec",),
    "sac_runtime.memory.store": ("KvStore", "Plan", "SlotGather"),
    "sac_runtime.pool.block_hash": ("chain_hashes",),
    "sac_runtime.pool.format": ("PoolGeometry",),
    "sac_runtime.pool.pool": ("Pool",),
    "sac_runtime.pool.reader": ("PoolReader",),
    "sac_runtime.pool.sequence": ("PoolSequence",),
    "sac_runtime.rows.layout": ("KvLayout", "Quantiser"),
    "sac_runtime.rows.placement": ("LayerFirst", "RowTable"),
    "sac_runtime.rows.quantise": ("pack_rows", "unpack_rows"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'sac_runtime' has no attribute '{name}' (public: {', '.join(__all__)})")
    value = globals()[name] = getattr(import_module(_HOME_OF[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
