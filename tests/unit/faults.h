/* An allocator that fails when it is told to, and counts what is not freed.
 */
#ifndef FAULTS_H
#define FAULTS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

typedef struct faults_state {
    int fail_at; /* the how manieth, from 0; below 0: none */
    int calls;
    size_t live;
} faults_state;

static void *faults_alloc(void *user, size_t size, size_t align)
{
    faults_state *faults = user;
    void *block = NULL;

    if (faults->calls++ == faults->fail_at) {
        return NULL;
    }
    block = aligned_alloc(align, (size + align - 1) / align * align);
    assert_non_null(block);
    faults->live += size;
    return block;
}

static void faults_free(void *user, void *block, size_t size, size_t align)
{
    faults_state *faults = user;

    (void)align;
    faults->live -= block != NULL ? size : 0;
    free(block);
}

static void *faults_realloc(
    void *user, void *block, size_t old_size, size_t new_size, size_t align)
{
    void *moved = faults_alloc(user, new_size, align);

    if (moved != NULL && block != NULL) {
        memcpy(moved, block, old_size < new_size ? old_size : new_size);
        faults_free(user, block, old_size, align);
    }
    return moved;
}

#endif
