/* A hash table with open addressing over an array of entries. */
#include "search/memo.h"

#include <string.h>

#include "common/alloc.h"

// FNV-1a.
static uint64_t
hash_bytes(uint64_t hash, const void *data, size_t size)
{
    const uint8_t *byte = data;
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ byte[i]) * UINT64_C(0x100000001b3);
    return hash;
}

static uint64_t
hash_key(int32_t i_reward, const deal_reward_text *key, int32_t n_tokens_left)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    hash = hash_bytes(hash, &i_reward, sizeof i_reward);
    hash = hash_bytes(hash, &key->n_tokens, sizeof key->n_tokens);
    hash = hash_bytes(hash, &key->is_finished, sizeof key->is_finished);
    hash = hash_bytes(hash, &n_tokens_left, sizeof n_tokens_left);
    return hash_bytes(hash, key->text, key->size);
}

static bool
is_equal(const deal_memo *memo, const deal_memo_entry *entry, uint64_t hash,
         int32_t i_reward, const deal_reward_text *key, int32_t n_tokens_left)
{
    return entry->hash == hash && entry->i_reward == i_reward &&
           entry->n_tokens_left == n_tokens_left && entry->n_tokens == key->n_tokens &&
           entry->is_finished == key->is_finished && entry->size == key->size &&
           (key->size == 0 ||
            memcmp(memo->text.data + entry->i_text, key->text, key->size) == 0);
}

static deal_status
grow_slots(deal_memo *memo, deal_error *err)
{
    if (memo->n_entry + 1 <= memo->n_slot / 2)
        return DEAL_OK;
    size_t n_slot = memo->n_slot ? 2 * memo->n_slot : 256;
    size_t *slot = deal_alloc_zero(n_slot, sizeof *slot);
    if (!slot)
        return deal_fail_memory(err, "memo of rewards");
    for (size_t i = 0; i < memo->n_entry; i++) {
        size_t at = memo->entry[i].hash & (n_slot - 1);
        while (slot[at])
            at = (at + 1) & (n_slot - 1);
        slot[at] = i + 1;
    }
    deal_free(memo->slot);
    memo->slot = slot;
    memo->n_slot = n_slot;
    return DEAL_OK;
}

static deal_status
grow_entries(deal_memo *memo, deal_error *err)
{
    size_t n = memo->n_entry;
    if (!deal_reserve(&memo->entry, &memo->entry_cap, n, n + 1, sizeof *memo->entry))
        return deal_fail_memory(err, "memo of rewards");
    return DEAL_OK;
}

void
deal_memo_clear(deal_memo *memo)
{
    memo->text.size = 0;
    memo->n_entry = 0;
    if (memo->slot)
        memset(memo->slot, 0, memo->n_slot * sizeof *memo->slot);
}

void
deal_memo_trim(deal_memo *memo)
{
    if (memo->text.size > DEAL_MEMO_SIZE_MAX)
        deal_memo_clear(memo);
}

void
deal_memo_free(deal_memo *memo)
{
    deal_free(memo->entry);
    deal_free(memo->slot);
    deal_bytes_free(&memo->text);
    *memo = (deal_memo){0};
}

deal_status
deal_memo_find(deal_memo *memo, int32_t i_reward, const deal_reward_text *key,
               int32_t n_tokens_left, size_t *i_entry, bool *is_new, deal_error *err)
{
    DEAL_TRY(grow_slots(memo, err));
    DEAL_TRY(grow_entries(memo, err));
    uint64_t hash = hash_key(i_reward, key, n_tokens_left);
    size_t at = hash & (memo->n_slot - 1);
    for (; memo->slot[at]; at = (at + 1) & (memo->n_slot - 1)) {
        size_t i = memo->slot[at] - 1;
        if (is_equal(memo, &memo->entry[i], hash, i_reward, key, n_tokens_left)) {
            *i_entry = i;
            *is_new = false;
            return DEAL_OK;
        }
    }
    size_t i_text = memo->text.size;
    DEAL_TRY(deal_bytes_append(&memo->text, key->text, key->size, err));
    memo->entry[memo->n_entry] = (deal_memo_entry){
        .hash = hash,
        .i_text = i_text,
        .size = key->size,
        .i_reward = i_reward,
        .n_tokens = key->n_tokens,
        .is_finished = key->is_finished,
        .n_tokens_left = n_tokens_left,
    };
    *i_entry = memo->n_entry++;
    *is_new = true;
    memo->slot[at] = memo->n_entry;
    return DEAL_OK;
}
