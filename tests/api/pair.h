/* Two checkpoints in the test's folder, whose difference is known: of rank one
 * in each layer, of small integers, so that factors of F32 hold it exactly
 * enough. Include it instead of folder.h.
 */
#ifndef TEST_PAIR_H
#define TEST_PAIR_H

#include "api/folder.h"

#define PAIR_BASE in_folder("base.safetensors")
#define PAIR_TUNED in_folder("tuned.safetensors")
#define PAIR_BLOCK "down_blocks.0.attentions.0.transformer_blocks.0."

enum { PAIR_MOST = 4096 };

/* A layer; its difference is a b^T, a of rows, b of the other dimensions. */
typedef struct pair_layer {
    const char *name; /* less .weight, as diffusers' */
    const char *shape;
    size_t rows;
    size_t cols;
} pair_layer;

static const pair_layer pair_layers[] = {
    {PAIR_BLOCK "attn1.to_k", "8,6", 8, 6},
    {PAIR_BLOCK "attn1.to_q", "6,10", 6, 10},
    {PAIR_BLOCK "attn2.to_v", "12,4", 12, 4},
    {"down_blocks.0.resnets.0.conv1", "5,2,3,3", 5, 18},
};

enum { PAIR_LAYERS = COUNT(pair_layers) };

/* The difference's element, between 1 and 12 in size. */
static inline double pair_delta(size_t layer, size_t row, size_t col)
{
    double a = (double)((row + layer) % 3) + 1.0;
    double b = (double)((col * 5 + layer) % 4) + 1.0;

    return (row + col) % 2 == 0 ? a * b : -a * b;
}

/* One of the two; `change`, where not NULL, is called with every tensor. */
static inline void pair_put(const char *file,
                            int tuned,
                            void (*change)(size_t layer, float *values))
{
    float values[PAIR_MOST];
    char name[200];
    image im;

    image_begin(&im, NULL);
    for (size_t i = 0; i < PAIR_LAYERS; i++) {
        const pair_layer *l = &pair_layers[i];
        some_numbers(values, l->rows * l->cols, (uint32_t)i + 1);
        for (size_t k = 0; tuned && k < l->rows * l->cols; k++) {
            values[k] += (float)pair_delta(i, k / l->cols, k % l->cols);
        }
        if (change != NULL) {
            change(i, values);
        }
        snprintf(name, sizeof name, "%s.weight", l->name);
        image_f32(&im, name, l->shape, values, l->rows * l->cols);
    }
    image_end(&im);
    folder_put(file, im.file, im.bytes);
    image_free(&im);
}

static inline void pair_make(void)
{
    pair_put("base.safetensors", 0, NULL);
    pair_put("tuned.safetensors", 1, NULL);
}

#endif
