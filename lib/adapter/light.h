/* Light-LoRA's frozen matrices: how they were drawn, and drawing them again.
 *
 * A file says it in the metadata entry "light_lora", a JSON object:
 *
 *   "seed"        of torch.manual_seed(), before each module's first draw
 *   "draws"       what was drawn in which order, as below
 *   "family"      whose layers' sizes are meant, such as "sd15"
 *   "shapes"      {canonical or stored name: [rows, columns]}, of layers whose
 *                 sizes the family does not tell
 *   "down_size", "up_size"  a and b, for those whose factors are one vector
 *
 * Draws are names of matrices, separated by commas, each with what it was
 * initialised by and a number after colons: "down_aux,down,up_aux",
 * "down_aux:normal:0.01". Matrices have these sizes:
 *
 *   down_aux [a, in]   down [r, a]   up [b, r]   up_aux [out, b]
 *   down_up [b, a]
 *
 * A matrix that is drawn twice is what the last of them gave.
 */
#ifndef LORA__ADAPTER_LIGHT_H
#define LORA__ADAPTER_LIGHT_H

#include "adapter/adapter.h"
#include "core/rng_torch.h"

#define LORA__LIGHT_KEY "light_lora"

typedef enum lora__light_init {
    LORA__LIGHT_ORTHOGONAL = 0, /* torch.nn.init.orthogonal_, gain */
    LORA__LIGHT_NORMAL,         /* normal_, standard deviation */
    LORA__LIGHT_XAVIER,         /* xavier_normal_, gain */
    LORA__LIGHT_LINEAR,         /* what a new nn.Linear has; no number */
    LORA__LIGHT_INIT_COUNT
} lora__light_init;

typedef struct lora__light_step {
    lora__role matrix;
    lora__light_init init;
    double value; /* the number; 1 if not given */
} lora__light_step;

#define LORA__LIGHT_DRAWS 16

typedef struct lora__light_order {
    lora__light_step draws[LORA__LIGHT_DRAWS];
    size_t count;
} lora__light_order;

/* The size of a layer. */
typedef struct lora__light_layer {
    const char *name;
    int64_t shape[2];
} lora__light_layer;

/* What a file says, or a caller. */
struct lora__light {
    uint64_t seed;
    lora__light_order order;
    const char *draws; /* the order as text */
    const lora__family *family;
    int64_t down_size; /* 0: tensors tell it */
    int64_t up_size;
    lora__map shapes; /* name -> index into sizes */
    lora__light_layer *sizes;
    size_t size_count;
    size_t size_capacity;
};

/* Of one module. */
typedef struct lora__light_sizes {
    size_t rows; /* out */
    size_t cols; /* in */
    size_t rank;
    size_t a;
    size_t b;
} lora__light_sizes;

/* OPTION, with what is wrong, unless the text is an order of draws. */
LORA_PRIVATE lora_status lora__light_read_order(lora__light_order *out,
                                                const char *text,
                                                lora_error *error);

/* Parse the metadata entry into the arena; FORMAT if it is none. To be
 * destroyed, also after a failure; NULL is in order. */
LORA_PRIVATE lora_status lora__light_parse(lora__light **out,
                                           lora__arena *arena,
                                           const char *text,
                                           lora_error *error);
LORA_PRIVATE void lora__light_destroy(lora__light *light);

/* A recipe with nothing in it but the seed and the order. */
LORA_PRIVATE lora_status lora__light_create(lora__light **out,
                                            lora__arena *arena,
                                            uint64_t seed,
                                            const char *draws,
                                            lora_error *error);

/* Say the size of a layer; the first one of a name holds. The name is
 * borrowed. */
LORA_PRIVATE lora_status lora__light_add_shape(lora__light *light,
                                               lora__arena *arena,
                                               const char *name,
                                               int64_t rows,
                                               int64_t cols,
                                               lora_error *error);

/* Append the metadata entry. */
LORA_PRIVATE void lora__light_put(lora__buffer *out, const lora__light *light);

/* 1 and the size of a module's weight where the recipe tells it. */
LORA_PRIVATE int lora__light_shape(int64_t out_shape[2],
                                   const lora__light *light,
                                   const lora__module *module);

/* The sizes of a Light-LoRA module whose numbers are known (its `lacks` is
 * NULL); of others rows and cols are 0. */
LORA_PRIVATE void lora__light_sizes_of(lora__light_sizes *out,
                                       const lora_adapter *adapter,
                                       const lora__module *module);

/* Where matrices are drawn to; NULL: not wanted. */
typedef struct lora__light_wanted {
    float *down_aux; /* [a, cols] */
    float *down;     /* [rank, a] */
    float *up;       /* [b, rank] */
    float *up_aux;   /* [rows, b] */
} lora__light_wanted;

/* Draw matrices of a module. KEY where the order does not draw a wanted one. */
LORA_PRIVATE lora_status lora__light_draw(const lora__light_wanted *out,
                                          const lora__light_order *order,
                                          uint64_t seed,
                                          const lora__light_sizes *sizes,
                                          lora_context *context,
                                          lora_error *error);

/* One draw into out[rows, cols]. */
LORA_PRIVATE lora_status lora__light_draw_one(float *out,
                                              lora__torch_rng *rng,
                                              lora__light_init init,
                                              double value,
                                              size_t rows,
                                              size_t cols,
                                              lora_context *context,
                                              lora_error *error);

/* Read what the adapter's metadata says, once its modules are grouped: sets
 * light and light_suspected. What cannot be read is a problem, no failure. */
LORA_PRIVATE lora_status lora__light_open(lora_adapter *adapter,
                                          lora_error *error);

/* Say which modules' numbers are not known, once they are parsed. */
LORA_PRIVATE lora_status lora__light_note(lora_adapter *adapter,
                                          lora_error *error);

/* The seed of a module: its own, or the recipe's. A seed of its own is a
 * tensor of one integer; FORMAT, SHAPE, DTYPE. */
LORA_PRIVATE lora_status lora__light_seed(uint64_t *out,
                                          const lora_adapter *adapter,
                                          const lora__module *module,
                                          lora_error *error);

#endif
