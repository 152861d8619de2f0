/* Sizes and offsets of the structs of sac.h. A field that is missing here shows in the size of its struct. */
#include "sac.h"

#include <stddef.h>

#define WHOLE(structure) {#structure, NULL, 0, sizeof(struct structure)}
#define FIELD(structure, field) {#structure, #field, offsetof(struct structure, field), sizeof(((struct structure *)0)->field)}

static const struct sac_field layout[] = {
    WHOLE(sac_rows),
    FIELD(sac_rows, store),
    FIELD(sac_rows, num_rows),
    FIELD(sac_rows, stride),
    FIELD(sac_rows, row_bytes),
    FIELD(sac_rows, rows),
    FIELD(sac_rows, n),
    FIELD(sac_rows, packed),
    FIELD(sac_rows, slots),
    FIELD(sac_rows, num_slots),
    FIELD(sac_rows, prefetch),
    FIELD(sac_rows, copy),
    WHOLE(sac_buffer),
    FIELD(sac_buffer, slot_of_token),
    FIELD(sac_buffer, num_tokens),
    FIELD(sac_buffer, token_of_slot),
    FIELD(sac_buffer, order),
    FIELD(sac_buffer, capacity),
    WHOLE(sac_step),
    FIELD(sac_step, tokens),
    FIELD(sac_step, n),
    FIELD(sac_step, newest),
    FIELD(sac_step, newest_slot),
    FIELD(sac_step, direct),
    FIELD(sac_step, slots),
    FIELD(sac_step, miss_tokens),
    FIELD(sac_step, victim_slots),
    FIELD(sac_step, miss_rows),
    FIELD(sac_step, row_of_token),
    FIELD(sac_step, first_row),
    FIELD(sac_step, compulsory),
    FIELD(sac_step, outside),
    FIELD(sac_step, gather_ns),
    WHOLE(sac_index),
    FIELD(sac_index, table),
    FIELD(sac_index, mask),
    FIELD(sac_index, hashes),
    FIELD(sac_index, places),
    WHOLE(sac_journal),
    FIELD(sac_journal, multipliers),
    FIELD(sac_journal, salt),
    FIELD(sac_journal, first_block),
    FIELD(sac_journal, num_blocks),
    FIELD(sac_journal, block_tokens),
    {NULL, NULL, 0, 0},
};

const struct sac_field *sac_layout(void) { return layout; }
