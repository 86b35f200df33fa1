/* The kinds of adapters that PEFT has. Source: formats.md 6.2, and for the
 * shapes of LoKr's layers 5.7.
 */
#include "op/peft_type.h"

#include "adapter/config.h"
#include "linalg/kronecker.h"

#define PEFT_BIT(role) LORA__ROLE_BIT(LORA__ROLE_##role)

enum {
    PEFT_LORA,
    PEFT_LOHA,
    PEFT_LOKR,
    PEFT_IA3,
    PEFT_OFT,
    PEFT_BOFT,
    PEFT_TYPES
};

static const lora__peft_type peft_types[PEFT_TYPES] = {
    [PEFT_LORA] = {.id = "LORA",
                   .alpha = "lora_alpha",
                   .roles = PEFT_BIT(DOWN) | PEFT_BIT(UP) | PEFT_BIT(UP_BIAS) |
                            PEFT_BIT(DORA) | PEFT_BIT(EMBEDDING_DOWN) |
                            PEFT_BIT(EMBEDDING_UP),
                   .is_pair = 1},
    [PEFT_LOHA] = {.id = "LOHA",
                   .alpha = "alpha",
                   .roles = PEFT_BIT(HADA_W1_A) | PEFT_BIT(HADA_W1_B) |
                            PEFT_BIT(HADA_W2_A) | PEFT_BIT(HADA_W2_B) |
                            PEFT_BIT(HADA_T1) | PEFT_BIT(HADA_T2),
                   .has_core = 1},
    [PEFT_LOKR] = {.id = "LOKR",
                   .alpha = "alpha",
                   .roles = PEFT_BIT(LOKR_W1) | PEFT_BIT(LOKR_W1_A) |
                            PEFT_BIT(LOKR_W1_B) | PEFT_BIT(LOKR_W2) |
                            PEFT_BIT(LOKR_W2_A) | PEFT_BIT(LOKR_W2_B) |
                            PEFT_BIT(LOKR_T2),
                   .has_core = 1,
                   .is_kronecker = 1},
    [PEFT_IA3] = {.id = "IA3",
                  .roles =
                      PEFT_BIT(IA3) | PEFT_BIT(WEIGHT) | PEFT_BIT(ON_INPUT),
                  .has_sides = 1},
    [PEFT_OFT] = {.id = "OFT",
                  .roles = PEFT_BIT(OFT_R),
                  .blocks = "r",
                  .side = "oft_block_size"},
    [PEFT_BOFT] = {.id = "BOFT",
                   .roles = PEFT_BIT(BOFT_R) | PEFT_BIT(BOFT_S),
                   .blocks = "boft_block_num",
                   .side = "boft_block_size",
                   .is_butterfly = 1},
};

LORA_PRIVATE const lora__peft_type *
lora__peft_type_of(const lora__module *module)
{
    uint64_t roles = 0;

    for (size_t i = 0; i < module->member_count; i++) {
        if (!lora__emit_is_scale(module->members[i].role) &&
            module->members[i].role != LORA__ROLE_BIAS) {
            roles |= LORA__ROLE_BIT(module->members[i].role);
        }
    }
    for (size_t i = 0; i < LORA__COUNT(peft_types); i++) {
        if (roles != 0 && (roles & ~peft_types[i].roles) == 0) {
            return &peft_types[i];
        }
    }
    return NULL;
}

LORA_PRIVATE const lora__peft_type *lora__peft_type_plain(void)
{
    return &peft_types[PEFT_LORA];
}

LORA_PRIVATE const lora__peft_type *lora__peft_type_kronecker(void)
{
    return &peft_types[PEFT_LOKR];
}

/* ---- layers ------------------------------------------------------------ */

static lora_status
peft_refuse(const lora__module *module, const char *why, lora_error *error)
{
    return lora__fail(error, LORA_ERROR_UNSUPPORTED, LORA_NO_OFFSET,
                      module->name, "PEFT would make another %s of it: %s",
                      module->kind->id, why);
}

/* 1 for factors of a convolution whose kernel is not 1: they have a core, or
 * the configuration says that none has. */
static int peft_has_kernel(const lora__module *module)
{
    return module->rank > 0 &&
           lora__shape_count(module->shape, 2, module->ndim) != 1;
}

static lora_status peft_plan_cores(lora__emit_alpha *alphas,
                                   const lora_adapter *adapter,
                                   size_t count,
                                   lora_error *error)
{
    int32_t has_core = 0;

    for (size_t m = 0; m < count; m++) {
        has_core |= adapter->modules[m].tucker;
    }
    for (size_t m = 0; m < count; m++) {
        const lora__module *module = &adapter->modules[m];
        alphas[m].has_core = has_core;
        if (has_core && !module->tucker && peft_has_kernel(module) &&
            lora__module_find(module, LORA__ROLE_LOKR_W2) == NULL) {
            return peft_refuse(
                module, "others have a core, and all would have one", error);
        }
    }
    return LORA_OK;
}

/* How a layer of LoKr is divided. */
typedef struct peft_lokr {
    size_t rows, rows1;
    size_t cols, cols1;
    int whole1, whole2;
} peft_lokr;

static peft_lokr peft_lokr_of(const lora_adapter *adapter,
                              const lora__module *module)
{
    const lora__entry *whole =
        lora__module_entry(adapter, module, LORA__ROLE_LOKR_W1);
    const lora__entry *left =
        lora__module_entry(adapter, module, LORA__ROLE_LOKR_W1_A);
    const lora__entry *right =
        lora__module_entry(adapter, module, LORA__ROLE_LOKR_W1_B);
    peft_lokr k;

    k.rows = (size_t)module->shape[0];
    k.cols = (size_t)module->shape[1];
    k.rows1 = (size_t)(whole != NULL ? whole : left)->shape[0];
    k.cols1 = (size_t)(whole != NULL ? whole : right)->shape[1];
    k.whole1 = whole != NULL;
    k.whole2 = lora__module_find(module, LORA__ROLE_LOKR_W2) != NULL;
    return k;
}

/* The first of the two that PEFT divides a side into: LyCORIS puts the smaller
 * one first always. 0 is no factor. */
static size_t peft_split(size_t side, size_t factor)
{
    size_t small;
    size_t large;

    if (factor > 0 && side % factor == 0) {
        return factor;
    }
    lora__kronecker_split(&small, &large, side, factor);
    return small;
}

/* The first module that another factor was used for, or `count`. */
static size_t
peft_lokr_try(const lora_adapter *adapter, size_t count, size_t factor)
{
    for (size_t m = 0; m < count; m++) {
        peft_lokr k = peft_lokr_of(adapter, &adapter->modules[m]);
        if (peft_split(k.rows, factor) != k.rows1 ||
            peft_split(k.cols, factor) != k.cols1) {
            return m;
        }
    }
    return count;
}

/* A factor that divides all sides as they are divided: none, or one that is no
 * less than any first part. Beyond the root of a side all factors are as none,
 * but for those that divide it, which are first parts. */
static lora_status peft_lokr_factor(size_t *out,
                                    const lora_adapter *adapter,
                                    size_t count,
                                    lora_error *error)
{
    size_t least = 1;
    size_t longest = 1;
    size_t misfit = peft_lokr_try(adapter, count, 0);

    for (size_t m = 0; m < count; m++) {
        peft_lokr k = peft_lokr_of(adapter, &adapter->modules[m]);
        least = k.rows1 > least ? k.rows1 : least;
        least = k.cols1 > least ? k.cols1 : least;
        longest = k.rows > longest ? k.rows : longest;
        longest = k.cols > longest ? k.cols : longest;
    }
    *out = 0;
    for (size_t factor = least; misfit < count; factor++) {
        if (factor != least && factor > longest / factor) {
            return peft_refuse(&adapter->modules[misfit],
                               "no decompose_factor divides all layers as they "
                               "are divided",
                               error);
        }
        misfit = peft_lokr_try(adapter, count, factor);
        *out = factor;
    }
    return LORA_OK;
}

/* PEFT cuts what is longer than twice the rank, w1 if it is told to cut both.
 * Where nothing is cut, the rank is one at which nothing would be. */
static lora_status peft_lokr_rank(lora__emit_alpha *alpha,
                                  const lora__module *module,
                                  const peft_lokr *k,
                                  int both,
                                  lora_error *error)
{
    size_t rows2 = k->rows / k->rows1;
    size_t cols2 = k->cols / k->cols1;
    size_t long1 = k->rows1 > k->cols1 ? k->rows1 : k->cols1;
    size_t long2 = rows2 > cols2 ? rows2 : cols2;
    size_t rank = (size_t)module->rank;

    if (rank == 0) {
        rank = both && long1 > long2 ? (long1 + 1) / 2 : (long2 + 1) / 2;
        alpha->rank = (int64_t)rank;
        alpha->alpha = module->scale * (double)rank;
    }
    return k->whole1 == !(both && 2 * rank < long1) &&
                   k->whole2 == !(2 * rank < long2)
               ? LORA_OK
               : peft_refuse(module,
                             "at its rank other factors would be whole, or "
                             "products",
                             error);
}

static lora_status peft_plan_lokr(lora__emit_alpha *alphas,
                                  const lora_adapter *adapter,
                                  size_t count,
                                  lora_error *error)
{
    size_t factor;
    int both = 0;

    TRY(peft_lokr_factor(&factor, adapter, count, error));
    for (size_t m = 0; m < count; m++) {
        both |= !peft_lokr_of(adapter, &adapter->modules[m]).whole1;
    }
    for (size_t m = 0; m < count; m++) {
        const lora__module *module = &adapter->modules[m];
        peft_lokr k = peft_lokr_of(adapter, module);
        alphas[m].factor = factor == 0 ? -1 : (int64_t)factor;
        alphas[m].both = both;
        TRY(peft_lokr_rank(&alphas[m], module, &k, both, error));
    }
    return LORA_OK;
}

/* Layers have blocks of one side, or one number of blocks. A block that serves
 * for all of a layer does not tell their number. */
static lora_status peft_plan_blocks(lora__emit_alpha *alphas,
                                    const lora_adapter *adapter,
                                    size_t count,
                                    lora_error *error)
{
    int same_side = 1;
    int same_blocks = 1;

    for (size_t m = 0; m < count; m++) {
        const lora__module *module = &adapter->modules[m];
        const lora__entry *r =
            lora__module_entry(adapter, module, LORA__ROLE_OFT_R);
        const lora__entry *boft =
            lora__module_entry(adapter, module, LORA__ROLE_BOFT_R);
        lora__emit_alpha *alpha = &alphas[m];

        if (r != NULL) {
            alpha->oft = lora__config_oft(adapter->config, module->target);
            alpha->blocks = r->shape[0];
            while (alpha->side * (alpha->side - 1) / 2 < r->shape[1]) {
                alpha->side++;
            }
            same_blocks &= alpha->oft == NULL || !alpha->oft->shared;
        } else {
            alpha->stages = boft->shape[0];
            alpha->blocks = boft->shape[1];
            alpha->side = boft->shape[2];
        }
        same_side &= alpha->side == alphas[0].side;
        same_blocks &= alpha->blocks == alphas[0].blocks;
        if (!(same_side || same_blocks) || alpha->stages != alphas[0].stages) {
            return peft_refuse(
                module, "others have other blocks, and all would have the same",
                error);
        }
    }
    for (size_t m = 0; m < count; m++) {
        alphas[m].blocks = same_side ? 0 : alphas[m].blocks;
        alphas[m].side = same_side ? alphas[m].side : 0;
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__peft_plan(lora__emit_alpha *alphas,
                                         const lora_adapter *adapter,
                                         size_t count,
                                         lora_error *error)
{
    if (alphas[0].type->has_core) {
        TRY(peft_plan_cores(alphas, adapter, count, error));
    }
    if (alphas[0].type->blocks != NULL) {
        return peft_plan_blocks(alphas, adapter, count, error);
    }
    return alphas[0].type->is_kronecker
               ? peft_plan_lokr(alphas, adapter, count, error)
               : LORA_OK;
}
