/* One step of a hot buffer: which top-k tokens have a slot, which must be fetched, and into which slots. The rule is SGLang
 * HiSparse's, stated in hot_buffer.py. */
#include "sac.h"

#include <stdlib.h>
#include <string.h>

enum { SLOT_NEVER = -1, SLOT_PENDING = -2, LOOK_AHEAD = 32 };

/* Marks behind those of the slots, the newest token's among them: where a miss looks, and where it writes. */
enum { USED_BY_MISSES = 1, NEVER_USED = 2 };

/* Slots not used in this step keep their old order and come first; the first of them are the victims, and move behind the
 * rest; slots hit keep their old order behind those. Each slot is written to both lists and one grows: no branch to guess.
 * The unused are gathered at the head of `order` itself, where they never overtake the slot that is read. */
static void renew_order(struct sac_buffer *b, int64_t misses, int64_t *victim_slots, const uint8_t *restrict used,
                        int32_t *restrict hit)
{
    int32_t *order = b->order;
    int64_t num_unused = 0, num_hit = 0;
    for (int64_t i = 0; i < b->capacity; i++) {
        int32_t slot = order[i], is_hit = used[slot];
        order[num_unused] = hit[num_hit] = slot;
        num_unused += !is_hit;
        num_hit += is_hit;
    }
    for (int64_t i = 0; i < misses; i++)
        victim_slots[i] = order[i];
    memmove(order, order + misses, (size_t)(num_unused - misses) * sizeof *order);
    for (int64_t i = 0; i < misses; i++)
        order[num_unused - misses + i] = (int32_t)victim_slots[i];
    memcpy(order + num_unused, hit, (size_t)num_hit * sizeof *order);
}

/* The token that held the slot keeps its entry in the map, which no longer agrees with token_of_slot: see look_up. */
static void place(struct sac_buffer *b, int64_t token, int64_t slot)
{
    b->token_of_slot[slot] = (int32_t)token;
    b->slot_of_token[token] = (int32_t)slot;
}

/* What lookups visit in no order comes faster if it is read through first, as a stream. */
static void read_through(const int32_t *from, int64_t n)
{
    for (int64_t i = 0; i < n; i += SAC_LINE / (int64_t)sizeof *from)
        (void)*(const volatile int32_t *)(from + i);
}

/* Looks every token up: it has the slot of its map entry if token_of_slot agrees, so that an eviction writes nothing to the
 * map, which is large and cold. An entry i without a slot is listed in `misses`, keeps its token's map entry in slots[i] for
 * now, and its token is marked, so that a second mention shows. Returns n, or the index of the first entry that is outside or
 * named twice. */
static int64_t look_up(struct sac_buffer *b, const struct sac_step *s, int64_t *restrict misses, int64_t *num_misses,
                       uint8_t *restrict used)
{
    const int64_t *restrict tokens = s->tokens;
    const int32_t *restrict token_of_slot = b->token_of_slot;
    int64_t *restrict slots = s->slots;
    int32_t *restrict slot_of_token = b->slot_of_token;
    int64_t missed = 0, i;
    memset(used, 0, (size_t)b->capacity + NEVER_USED + 1);
    read_through(token_of_slot, b->capacity);
    for (i = 0; i < s->n; i++) {
        int64_t token = tokens[i];
        if (i + LOOK_AHEAD < s->n) /* an address that is outside does no harm: a prefetch never faults */
            __builtin_prefetch(slot_of_token + tokens[i + LOOK_AHEAD], 1);
        if ((uint64_t)token >= (uint64_t)b->num_tokens)
            break;
        int is_newest = token == s->newest;
        int32_t slot = is_newest ? (int32_t)s->newest_slot : slot_of_token[token];
        int32_t is_miss = !is_newest && token_of_slot[slot < 0 ? 0 : slot] != token;
        if (slot == SLOT_PENDING || used[is_miss ? b->capacity + NEVER_USED : slot])
            break;
        used[is_miss ? b->capacity + USED_BY_MISSES : slot] = 1;
        slots[i] = slot;
        misses[missed] = i;
        missed += is_miss;
        if (!is_newest)
            slot_of_token[token] = is_miss ? SLOT_PENDING : slot;
    }
    *num_misses = missed;
    return i;
}

static void undo_look_up(struct sac_buffer *b, const struct sac_step *s, int64_t num_misses)
{
    for (int64_t miss = 0; miss < num_misses; miss++) {
        int64_t entry = s->miss_tokens[miss];
        b->slot_of_token[s->tokens[entry]] = (int32_t)s->slots[entry];
    }
}

static int64_t plan(struct sac_buffer *b, struct sac_step *s, int32_t *hit, uint8_t *used)
{
    int64_t num_misses, in_order = look_up(b, s, s->miss_tokens, &num_misses, used);
    if (in_order < s->n) {
        undo_look_up(b, s, num_misses);
        return -1 - in_order;
    }
    if (!s->direct)
        renew_order(b, num_misses, s->victim_slots, used, hit);
    s->compulsory = 0;
    for (int64_t miss = 0; miss < num_misses; miss++) {
        int64_t entry = s->miss_tokens[miss], token = s->tokens[entry];
        int64_t slot = s->direct ? token : s->victim_slots[miss];
        s->compulsory += s->slots[entry] == SLOT_NEVER;
        if (s->miss_rows)
            s->miss_rows[miss] = (s->row_of_token ? s->row_of_token[token] : token) + s->first_row;
        s->miss_tokens[miss] = token;
        s->victim_slots[miss] = s->slots[entry] = slot;
        place(b, token, slot);
    }
    if (s->direct && s->newest >= 0)
        place(b, s->newest, s->newest_slot);
    return num_misses;
}

int64_t sac_plan(struct sac_buffer *b, struct sac_step *s)
{
    /* Not kept with the buffer: a step of the next layer gets the same memory, which the cache still holds. */
    int32_t *hit = malloc((size_t)b->capacity * sizeof *hit + (size_t)b->capacity + NEVER_USED + 1);
    if (!hit)
        return INT64_MIN;
    int64_t misses = plan(b, s, hit, (uint8_t *)(hit + b->capacity));
    free(hit);
    return misses;
}
