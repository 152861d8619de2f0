"""Row formats and where a row lies: bytes, cache lines, pages. Knows sizes, not values, stores or time.

Shape letters, used by every docstring of this package:

    L  layers                      k  entries chosen by the top-k (2048)
    T  tokens of one sequence      B  slots of a hot buffer (>= k)
    n  rows of one call            m  misses of one step (<= k)
    H  attention heads             D  latent width (512)
    I  indexer heads (64)          R  RoPE width (64)
    W  indexer width (128)
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from math import gcd

import numpy as np
from numpy.typing import NDArray

from sac_runtime.errors import GeometryError
from sac_runtime.rows.doors import require_integers, require_whole

IntArray = NDArray[np.int64]
ByteArray = NDArray[np.uint8]
FloatArray = NDArray[np.float32]

LINE_BYTES = 64
CHECK_BYTES = 16  # SAC_CHECK of sac.h
PAGE_BYTES = 4096
FP8_TILE = 128  # latent values that share one fp8 scale
FP8_PADDED_STRIDE_BYTES = 704  # 656 B of payload up to the next whole line

DEEPSEEK_LAYERS = 61  # DeepSeek-V3.2, the model of SAC's runs
DEEPSEEK_TOP_K = 2048
SAC_BUFFER_SLOTS = 6144  # hot buffer of SAC's main runs, per layer and request

INDEX_PAGE_TOKENS = 64
INDEX_PAGE_BYTES = INDEX_PAGE_TOKENS * (128 + 4)  # 64 x 128 e4m3, then 64 fp32 scales [DeepGEMM, SGLang]


class Quantiser(StrEnum):
    """How the fp8 codes of a row were made. They disagree with one another, so a row format names its own."""

    UE8M0_DEEPSEEK = "ue8m0-deepseek"  # scale 2^ceil(log2(max(amax, 1e-4) / 448)) [DeepSeek-V3.2-Exp inference code]
    UE8M0_FLASHMLA = "ue8m0-flashmla"  # scale 2^ceil(log2(max(amax / 448, 1e-4))) [FlashMLA tests/quant.py]
    FP32_SGLANG = "fp32-sglang"  # scale amax / 448 in fp32, no epsilon [SGLang]


@dataclass(frozen=True)
class KvLayout:
    """The format of one KV row: a latent of D values and a RoPE key of R.

    row_bytes: payload of a row; stride_bytes: distance between the starts of two rows (padding is never moved); check_bytes: of the
    checksum that follows the payload and that a CheckedStore writes and reads, 0 for none.
    Rows start at multiples of stride_bytes from a page-aligned origin. Raises GeometryError."""

    name: str
    row_bytes: int
    stride_bytes: int
    latent: int = 512
    rope: int = 64
    quantiser: Quantiser | None = None
    check_bytes: int = 0

    def __post_init__(self) -> None:
        require_whole(f"layout {self.name!r}", "row_bytes", self.row_bytes, 1)
        for field in ("stride_bytes", "latent", "rope", "check_bytes"):
            require_whole(f"layout {self.name!r}", field, getattr(self, field))
        if self.stride_bytes < self.row_bytes + self.check_bytes:
            checked = f" and check_bytes={self.check_bytes}" if self.check_bytes else ""
            raise GeometryError(
                f"layout {self.name!r}: stride_bytes={self.stride_bytes} is below row_bytes={self.row_bytes}{checked}; "
                "rows would overlap (use a stride of at least row_bytes)"
            )

    def checked(self) -> "KvLayout":
        """This format with a checksum behind each row; rows lie a line farther apart where their padding has no room for it."""
        room = self.stride_bytes - self.row_bytes >= CHECK_BYTES
        stride_bytes = self.stride_bytes if room else -(-(self.row_bytes + CHECK_BYTES) // LINE_BYTES) * LINE_BYTES
        return replace(self, stride_bytes=stride_bytes, check_bytes=CHECK_BYTES)

    @property
    def carrier(self) -> "KvLayout":
        """The format of a store that moves payload and checksum together, knowing neither."""
        return replace(self, row_bytes=self.row_bytes + self.check_bytes, check_bytes=0)

    @classmethod
    def bf16(cls, latent: int = 512, rope: int = 64) -> "KvLayout":
        """2 B per value: 1152 B (18 lines) at DeepSeek-V3.2's widths. Source: SAC section 4."""
        return cls("bf16", 2 * (latent + rope), 2 * (latent + rope), latent, rope)

    @classmethod
    def fp32(cls, latent: int = 512, rope: int = 64) -> "KvLayout":
        """4 B per value; exact, for comparisons with models that run in fp32."""
        return cls("fp32", 4 * (latent + rope), 4 * (latent + rope), latent, rope)

    @classmethod
    def fp8(cls, padded: bool = True, quantiser: Quantiser = Quantiser.UE8M0_DEEPSEEK) -> "KvLayout":
        """656 B: 512 e4m3 | 4 fp32 scales | 64 bf16 RoPE [FlashMLA tests/quant.py].

        padded: rows 704 B apart, so that each starts on a line of its own; else 656 B apart, sharing lines."""
        return cls("fp8", 656, FP8_PADDED_STRIDE_BYTES if padded else 656, quantiser=quantiser)

    @classmethod
    def index_page(cls) -> "KvLayout":
        """One row is a page of 64 tokens' indexer keys: 8448 B (132 lines), kept beside the KV rows of those tokens."""
        return cls("index-page", INDEX_PAGE_BYTES, INDEX_PAGE_BYTES, latent=0, rope=0)

    @property
    def lines_per_row(self) -> int:
        """Cache lines that one row touches; the most of any row where the stride lets rows start inside a line."""
        latest_start = LINE_BYTES - gcd(self.stride_bytes, LINE_BYTES)
        return (latest_start + self.row_bytes - 1) // LINE_BYTES + 1

    def lines_touched(self, rows: IntArray) -> int:
        """Distinct 64 B lines that hold a byte of `rows`. rows: (n,) int64. A line shared by two rows counts once."""
        return self._blocks_touched(rows, LINE_BYTES)

    def pages_touched(self, rows: IntArray, page_bytes: int = PAGE_BYTES) -> int:
        """Distinct pages that hold a byte of `rows`. rows: (n,) int64; page_bytes: 4096, or 2 MiB for huge pages."""
        return self._blocks_touched(rows, page_bytes)

    def _blocks_touched(self, rows: IntArray, block_bytes: int) -> int:
        """Sweep over the distinct rows in order: each adds its blocks, less those that the row before it reached."""
        require_integers(f"layout {self.name!r}", "rows", rows)
        require_whole(f"layout {self.name!r}", "page_bytes", block_bytes, 1)
        starts = np.unique(rows) * self.stride_bytes
        first = starts // block_bytes
        last = (starts + self.row_bytes - 1) // block_bytes
        first[1:] = np.maximum(first[1:], last[:-1] + 1)
        return int((last - first + 1).sum())
