"""The kernels in Triton: planning a step, loading its misses, placing and writing back new rows. Run by Triton's interpreter where
TRITON_INTERPRET=1, so that a machine without a GPU can test them.

Knows addresses and the rule. Pointers are torch tensors, but for `pool`, the address of row 0 of a registered store.
 native/swap.cu does the first two in one launch, and needs less time (docs/gpu.md says how much).
"""

import triton
import triton.language as tl

EMPTY = tl.constexpr(-1)
STATUS_FINE = tl.constexpr(0)  # above 0: 1 + the entry that is outside or named twice
STATUS_LENGTH = tl.constexpr(-1)
STATUS_ROW = tl.constexpr(-2)


@triton.jit
def named_twice(entry_of_token, token, entries, inside, ENTRIES: tl.constexpr):
    """Writes each token's entry; where two entries name one token, the later is True."""
    tl.store(entry_of_token + token, ENTRIES, mask=inside)
    tl.debug_barrier()
    tl.atomic_min(entry_of_token + token, entries, mask=inside)
    tl.debug_barrier()
    return inside & (tl.load(entry_of_token + token, mask=inside, other=0) != entries)


@triton.jit
def put_empty_first(tokens, order, held_token, positions, real, CAPACITY: tl.constexpr):
    """The order where the direct path ends: slots that hold nothing are the oldest of all."""
    is_held = (real & (held_token != EMPTY)).to(tl.int32)
    held_before = tl.cumsum(is_held, 0) - is_held
    place = tl.where(is_held == 1, CAPACITY - tl.sum(is_held) + held_before, positions - held_before)
    tl.debug_barrier()
    tl.store(tokens + place, held_token, mask=real)
    tl.store(order + place, positions, mask=real)
    tl.debug_barrier()


@triton.jit
def slots_of_hits(
    entry_of_token, topk, slots, count, limit, held_token, slot, entries, asked, works, TOP_K: tl.constexpr
):
    """Which positions are hit; and the slot of each entry, EMPTY without one, by way of `slots`."""
    known = works & (held_token >= 0) & (held_token < limit)
    entry = tl.load(entry_of_token + held_token, mask=known, other=EMPTY)
    known = known & (entry >= 0) & (entry < count)
    hit = known & (tl.load(topk + entry, mask=known, other=EMPTY) == held_token)
    tl.store(slots + entries, EMPTY, mask=entries < TOP_K)
    tl.debug_barrier()
    tl.store(slots + entry, slot, mask=hit)
    tl.debug_barrier()
    return hit, tl.load(slots + entries, mask=asked & (entries < TOP_K), other=EMPTY)


@triton.jit
def renew_order(
    tokens,
    order,
    victims,
    positions,
    real,
    hit,
    held_token,
    slot,
    token,
    missing,
    rank,
    misses,
    direct,
    moves,
    CAPACITY: tl.constexpr,
):
    """Unused slots in their old order, those filled, those hit in their old order. Returns the slot of each miss."""
    is_hit = hit.to(tl.int32)
    num_hits = tl.sum(is_hit)
    hit_before = tl.cumsum(is_hit, 0) - is_hit
    unused_before = positions - hit_before
    victim = real & (is_hit == 0) & (unused_before < misses) & moves
    tl.store(victims + unused_before, slot, mask=victim)
    place = tl.where(hit, CAPACITY - num_hits + hit_before, unused_before - misses)
    tl.debug_barrier()
    tl.store(tokens + place, held_token, mask=real & moves & (victim == 0))
    tl.store(order + place, slot, mask=real & moves & (victim == 0))
    filled = tl.load(victims + rank, mask=missing & (direct == 0), other=0)
    filled = tl.where(direct, token, filled)
    place = tl.where(direct, token, CAPACITY - num_hits - misses + rank)
    tl.store(tokens + place, token, mask=missing)
    tl.store(order + place, filled, mask=missing)
    return filled


@triton.jit
def count_step(counters, seen, token, missing, newest, count, misses, direct, fine, COUNT_COMPULSORY: tl.constexpr):
    """Counters of a request, and the bits of tokens that have had a slot."""
    compulsory = misses * 0
    if COUNT_COMPULSORY:
        bit = (1 << (token % 32)).to(tl.int32)
        before = tl.atomic_or(seen + token // 32, bit, mask=missing)
        compulsory = tl.sum((missing & ((before & bit) == 0)).to(tl.int32))
        if direct & fine & (newest >= 0):
            tl.atomic_or(seen + newest // 32, (1 << (newest % 32)).to(tl.int32))
    sums = tl.arange(0, 4)
    hits = count - misses
    more = tl.where(sums == 0, 1, tl.where(sums == 1, hits, tl.where(sums == 2, misses, compulsory)))
    tl.store(counters + sums, tl.load(counters + sums) + more, mask=fine & (sums >= 0))


@triton.jit
def plan_kernel(
    topk,
    num_topk,
    lengths,
    pages,
    first_row,
    num_rows,
    tokens,
    order,
    held,
    seen,
    counters,
    slots,
    miss_tokens,
    victim_slots,
    num_misses,
    status,
    rows,
    entry_of_token,
    victims,
    TOP_K: tl.constexpr,
    CAPACITY: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    PAGES: tl.constexpr,
    COUNT_COMPULSORY: tl.constexpr,
    ENTRIES: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """One request per program: as plan() of native/plan.h; struct Swap of native/swap.h says what the arguments are.

    rows: (R, TOP_K) int64, of each miss. Scratch: entry_of_token (R, PAGES * PAGE_TOKENS), which need never be cleared, since an
    entry counts only where the top-k agrees; victims (R, TOP_K). ENTRIES, POSITIONS: powers of two."""
    request = tl.program_id(0)
    first, limit = request * TOP_K, PAGES * PAGE_TOKENS
    length, count = tl.load(lengths + request), tl.load(num_topk + request)
    left_direct, length_before = tl.load(held + 2 * request), tl.load(held + 2 * request + 1)
    newest = tl.where(length < 0, -1, length - 1)
    num_tokens = tl.where((length < 0) | (length > limit), limit, length)
    direct = (left_direct == 0) & (length >= 0) & (length <= CAPACITY)
    entry_of_token += request.to(tl.int64) * limit
    tokens += request * CAPACITY
    order += request * CAPACITY
    entries, positions = tl.arange(0, ENTRIES), tl.arange(0, POSITIONS)
    asked, real = entries < count, positions < CAPACITY
    token = tl.load(topk + first + entries, mask=asked & (entries < TOP_K), other=EMPTY)

    inside = asked & (token >= 0) & (token < num_tokens)
    repeated = named_twice(entry_of_token, token, entries, inside, ENTRIES)
    first_bad = tl.min(tl.where((asked & (inside == 0)) | repeated, entries, ENTRIES))
    lapsed = (count < 0) | (count > TOP_K) | (length > limit) | ((length > 0) & (length < length_before))
    works = (length != 0) & (first_bad == ENTRIES) & (lapsed == 0)

    held_token = tl.load(tokens + positions, mask=real, other=EMPTY)
    if works & (left_direct == 0) & (direct == 0):
        put_empty_first(tokens, order, held_token, positions, real, CAPACITY)
    held_token = tl.load(tokens + positions, mask=real, other=EMPTY)
    slot = tl.load(order + positions, mask=real, other=EMPTY)
    hit, slot_of_entry = slots_of_hits(
        entry_of_token, topk + first, slots + first, count, limit, held_token, slot, entries, asked, works, TOP_K
    )

    is_newest = inside & (token == newest)
    missing = works & inside & (is_newest == 0) & (slot_of_entry == EMPTY)
    row = (
        tl.load(pages + request * PAGES + token // PAGE_TOKENS, mask=missing, other=0) + token % PAGE_TOKENS + first_row
    )
    strays = tl.sum((missing & ((row < 0) | (row >= num_rows))).to(tl.int32))
    fine = works & (strays == 0)
    missing = missing & fine
    misses = tl.sum(missing.to(tl.int32))
    rank = tl.cumsum(missing.to(tl.int32), 0) - 1
    filled = renew_order(
        tokens, order, victims + first, positions, real, hit, held_token, slot, token, missing, rank, misses, direct,
        fine & (direct == 0), CAPACITY,
    )  # fmt: skip
    tl.store(tokens + newest, newest, mask=fine & direct & (newest >= 0))

    result = tl.where(is_newest, tl.where(direct, newest, CAPACITY), tl.where(missing, filled, slot_of_entry))
    tl.store(slots + first + entries, tl.where(fine & asked, result, EMPTY), mask=entries < TOP_K)
    tl.store(miss_tokens + first + rank, token, mask=missing)
    tl.store(victim_slots + first + rank, filled, mask=missing)
    tl.store(rows + first + rank, row, mask=missing)
    tl.store(num_misses + request, misses)
    refused = tl.where(first_bad < ENTRIES, 1 + first_bad, tl.where(strays > 0, STATUS_ROW, STATUS_FINE))
    tl.store(status + request, tl.where(length == 0, STATUS_FINE, tl.where(lapsed, STATUS_LENGTH, refused)))
    tl.store(held + 2 * request, ((left_direct != 0) | (direct == 0)).to(tl.int32), mask=works)
    tl.store(held + 2 * request + 1, newest + 1, mask=fine)
    words = request.to(tl.int64) * ((limit + 31) // 32)
    count_step(
        counters + 4 * request, seen + words, token, missing, newest, count, misses, direct, fine, COUNT_COMPULSORY
    )


@triton.jit
def copy_words(source, target, ROW_WORDS: tl.constexpr, BLOCK: tl.constexpr):
    """One row by one program, as 4-byte words."""
    words = tl.arange(0, BLOCK)
    inside = words < ROW_WORDS
    tl.store(target + words, tl.load(source + words, mask=inside), mask=inside)


@triton.jit
def gather_kernel(
    pool,
    rows,
    victim_slots,
    num_misses,
    buffer,
    TOP_K: tl.constexpr,
    CAPACITY: tl.constexpr,
    STRIDE_WORDS: tl.constexpr,
    ROW_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Misses of plan_kernel into their slots: a row per program, (TOP_K, R) programs, so that a request's rows follow one another.
    buffer: (R, CAPACITY + 1, ROW_WORDS) int32."""
    miss = tl.program_id(0)
    request = tl.program_id(1)
    if miss < tl.load(num_misses + request):
        row = tl.load(rows + request * TOP_K + miss)
        slot = tl.load(victim_slots + request * TOP_K + miss)
        place = request.to(tl.int64) * (CAPACITY + 1) + slot
        source = pool.to(tl.pointer_type(tl.int32)) + row * STRIDE_WORDS
        copy_words(source, buffer + place * ROW_WORDS, ROW_WORDS, BLOCK)


@triton.jit
def gather_rows_kernel(pool, rows, out, STRIDE_WORDS: tl.constexpr, ROW_WORDS: tl.constexpr, BLOCK: tl.constexpr):
    """Row rows[i] into out[i], a row per program. rows: (n,) int64; out: (n, ROW_WORDS) int32."""
    number = tl.program_id(0)
    source = pool.to(tl.pointer_type(tl.int32)) + tl.load(rows + number) * STRIDE_WORDS
    copy_words(source, out + number.to(tl.int64) * ROW_WORDS, ROW_WORDS, BLOCK)


@triton.jit
def scatter_rows_kernel(pool, rows, values, STRIDE_WORDS: tl.constexpr, ROW_WORDS: tl.constexpr, BLOCK: tl.constexpr):
    """values[i] to row rows[i]: the write path. Shapes as gather_rows_kernel."""
    number = tl.program_id(0)
    target = pool.to(tl.pointer_type(tl.int32)) + tl.load(rows + number) * STRIDE_WORDS
    copy_words(values + number.to(tl.int64) * ROW_WORDS, target, ROW_WORDS, BLOCK)


@triton.jit
def place_newest_kernel(
    values, lengths, held, buffer, CAPACITY: tl.constexpr, ROW_WORDS: tl.constexpr, BLOCK: tl.constexpr
):
    """values[r] into the slot of the newest token of request r. values: (R, ROW_WORDS) int32."""
    request = tl.program_id(0)
    length = tl.load(lengths + request)
    if length > 0:
        slot = tl.where(tl.load(held + 2 * request) != 0, CAPACITY, length - 1)
        place = request.to(tl.int64) * (CAPACITY + 1) + slot
        copy_words(values + request.to(tl.int64) * ROW_WORDS, buffer + place * ROW_WORDS, ROW_WORDS, BLOCK)


@triton.jit
def write_back_kernel(
    pool,
    pages,
    first_rows,
    lengths,
    held,
    buffer,
    num_requests,
    CAPACITY: tl.constexpr,
    PAGE_TOKENS: tl.constexpr,
    PAGES: tl.constexpr,
    STRIDE_WORDS: tl.constexpr,
    ROW_WORDS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """The newest tokens' rows of all layers, (L, R) programs, from their slots to the pool. first_rows: (L,) int64; held:
    (L, R, 2); buffer: (L, R, CAPACITY + 1, ROW_WORDS)."""
    request = tl.program_id(1)
    both = tl.program_id(0).to(tl.int64) * num_requests + request
    length = tl.load(lengths + request)
    if length > 0:
        token = length - 1
        slot = tl.where(tl.load(held + 2 * both) != 0, CAPACITY, token)
        page = tl.load(pages + request * PAGES + token // PAGE_TOKENS)
        row = page + token % PAGE_TOKENS + tl.load(first_rows + tl.program_id(0))
        source = buffer + (both * (CAPACITY + 1) + slot) * ROW_WORDS
        copy_words(source, pool.to(tl.pointer_type(tl.int32)) + row * STRIDE_WORDS, ROW_WORDS, BLOCK)
