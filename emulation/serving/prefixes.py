"""Which prefix blocks are kept where the policy keeps KV: least recently used out. Knows block ids, no time."""

from collections import OrderedDict
from collections.abc import Iterable

from emulation.serving.workload import Request


class PrefixStore:
    """Block ids of a home that holds `num_blocks` of `block_tokens` tokens; hits are the longest run of known blocks from the
    first on.

    What runs takes none of its room (assumed; kind to HBM only, whose prefixes share HBM with what runs). Blocks become known
    when they are looked up: a prefix counts as written from its request's admission on (assumed; in truth only when its
    prefill is done)."""

    def __init__(self, num_blocks: int, block_tokens: int) -> None:
        self.num_blocks = num_blocks
        self.block_tokens = block_tokens
        self._blocks: OrderedDict[int, None] = OrderedDict()

    def cached_tokens(self, request: Request) -> int:
        """Tokens of the prompt found here; then all of its blocks are. At least one token is left to compute."""
        num_hits, blocks = self.num_hits(request), self._blocks
        for block in reversed(request.hash_ids):  # so that a prefix's last blocks go before its first
            blocks[block] = None
            blocks.move_to_end(block)
        while len(blocks) > self.num_blocks:
            blocks.popitem(last=False)
        return min(num_hits * self.block_tokens, request.prompt_len - 1)

    def num_hits(self, request: Request) -> int:
        """Blocks of the prompt that are here, from the first on."""
        blocks = self._blocks
        for number, block in enumerate(request.hash_ids):
            if block not in blocks:
                return number
        return len(request.hash_ids)


def has_reuse(requests: Iterable[Request]) -> bool:
    """Whether any prompt begins with a block that one before it began with: what a home without end would find."""
    seen: set[int] = set()
    for request in requests:
        if request.hash_ids:
            if request.hash_ids[0] in seen:
                return True
            seen.add(request.hash_ids[0])
    return False
