#include "common/arena.h"

#include "common/alloc.h"

#define PIECE_SIZE ((size_t)32 << 20)

struct deal_arena_piece {
    deal_arena_piece *before;
    size_t size, used; // bytes, this header included
};

#define HEADER_SIZE                                                                    \
    ((sizeof(deal_arena_piece) + DEAL_ALIGNMENT - 1) & ~(DEAL_ALIGNMENT - 1ul))

void *
deal_arena_alloc(deal_arena *arena, size_t n, size_t size)
{
    if (size != 0 && n > (SIZE_MAX / 2) / size)
        return NULL;
    size_t n_byte = (n * size + DEAL_ALIGNMENT - 1) & ~(size_t)(DEAL_ALIGNMENT - 1);
    deal_arena_piece *piece = arena->last;
    if (!piece || piece->size - piece->used < n_byte) {
        size_t piece_size = HEADER_SIZE + n_byte;
        if (piece_size < PIECE_SIZE)
            piece_size = PIECE_SIZE;
        piece = deal_alloc_huge(piece_size);
        if (!piece)
            return NULL;
        *piece = (deal_arena_piece){arena->last, piece_size, HEADER_SIZE};
        arena->last = piece;
    }
    void *block = (unsigned char *)piece + piece->used;
    piece->used += n_byte;
    arena->used_size += n_byte;
    return block;
}

void
deal_arena_free(deal_arena *arena)
{
    while (arena->last) {
        deal_arena_piece *before = arena->last->before;
        deal_free(arena->last);
        arena->last = before;
    }
    arena->used_size = 0;
}
