/* Which name of a model is nearest to one that it does not have. */
#include "core/text.h"
#include "model/model.h"

#include <string.h>

/* Longer names are not compared. */
#define NEAREST_BYTES 200

/* What was found so far. */
typedef struct nearest {
    const char *name;
    size_t distance; /* only names that are nearer count */
} nearest;

/* Dots and underscores are alike: some dialects write one for the other. */
static int nearest_same(char a, char b)
{
    return a == b || ((a == '.' || a == '_') && (b == '.' || b == '_'));
}

/* Letters to put in, take out or change to make b of a; `most` where it is as
 * much or more. Only the band that can end below `most` is computed. */
static size_t nearest_distance(const char *a, const char *b, size_t most)
{
    uint16_t rows[2][NEAREST_BYTES + 1];
    const size_t a_bytes = strlen(a);
    const size_t b_bytes = strlen(b);
    size_t apart = a_bytes > b_bytes ? a_bytes - b_bytes : b_bytes - a_bytes;

    if (a_bytes > NEAREST_BYTES || b_bytes > NEAREST_BYTES || apart >= most) {
        return most;
    }
    for (size_t j = 0; j <= b_bytes; j++) {
        rows[0][j] = (uint16_t)j;
    }
    for (size_t i = 1; i <= a_bytes; i++) {
        const uint16_t *above = rows[(i - 1) & 1];
        uint16_t *row = rows[i & 1];
        const size_t from = i > most ? i - most : 1;
        const size_t to = i + most < b_bytes ? i + most : b_bytes;
        size_t least = SIZE_MAX;

        row[from - 1] = (uint16_t)(from == 1 ? i : most);
        for (size_t j = from; j <= to; j++) {
            size_t cost =
                above[j - 1] + (size_t)!nearest_same(a[i - 1], b[j - 1]);
            /* Past the end of the band above there is nothing nearer. */
            size_t up = j < i + most ? above[j] + (size_t)1 : most;
            size_t left = row[j - 1] + (size_t)1;
            cost = cost < up ? cost : up;
            cost = cost < left ? cost : left;
            row[j] = (uint16_t)cost;
            least = cost < least ? cost : least;
        }
        if (least >= most) {
            return most;
        }
    }
    return rows[a_bytes & 1][b_bytes] < most ? rows[a_bytes & 1][b_bytes]
                                             : most;
}

static void nearest_try(nearest *best,
                        const char *name,
                        const char *candidate,
                        const char *answer)
{
    size_t distance = nearest_distance(name, candidate, best->distance);

    if (distance < best->distance) {
        best->distance = distance;
        best->name = answer;
    }
}

/* A third of the letters may differ: more is another name. */
LORA_PRIVATE const char *lora__binding_nearest(const lora_binding *binding,
                                               size_t item)
{
    const lora__checkpoint *c = binding->bind.model;
    const lora__bound *bound = &binding->bind.items[item];
    const lora_adapter *adapter = binding->adapter;
    const char *names[2];
    nearest best = {NULL, 0};

    names[0] = bound->module == SIZE_MAX
                   ? adapter->container->entries[bound->tensor].name
                   : adapter->modules[bound->module].target;
    names[1] = bound->module == SIZE_MAX ? names[0]
                                         : adapter->modules[bound->module].path;
    best.distance = strlen(names[0]) / 3 + 1;
    for (size_t t = 0; t < c->tensor_count && best.distance > 0; t++) {
        const lora__tensor *tensor = &c->tensors[t];
        const char *answer = lora__model_tensor_name(binding->model, t);

        if (tensor->use == LORA__TENSOR_ASIDE) {
            continue;
        }
        for (size_t n = 0; n < LORA__COUNT(names); n++) {
            nearest_try(&best, names[n], tensor->target, answer);
            nearest_try(&best, names[n], tensor->module, answer);
        }
        for (size_t p = 0; p < tensor->part_count; p++) {
            nearest_try(&best, names[0], tensor->parts[p].target, answer);
        }
    }
    return best.name;
}
