/* Decompositions of all modules of an adapter. */
#ifndef LORA__OP_SPECTRA_H
#define LORA__OP_SPECTRA_H

#include "adapter/kind.h"
#include "linalg/factored.h"
#include "op/rank_rule.h"

/* A module's. */
typedef struct lora__decomposed {
    int is_nonfinite;        /* nothing else is set */
    lora__spectrum spectrum; /* sigma NULL: not decomposed */
    lora__svd svd;           /* state NULL: not kept, to be made again */
} lora__decomposed;

struct lora_spectra {
    const lora_adapter *adapter;
    lora_adapter *owned;      /* the same; NULL: the caller keeps it alive */
    lora__decomposed *layers; /* one a module */
    int is_complete;          /* what can be decomposed is */
};

/* A module's factors at work. */
typedef struct lora__spectra_work {
    lora__factors factors;
    lora__svd_input input; /* the factors, as the decomposition wants them */
    const lora__svd *svd;  /* the layer's, or `made`, or `known` */
    lora__svd made;
    lora__svd known; /* of factors that are their own decomposition */
} lora__spectra_work;

/* Load the factors, and decompose them unless the layer has kept that.
 * NONFINITE as lora__svd_create(). */
LORA_PRIVATE lora_status lora__spectra_open(lora__spectra_work *out,
                                            const lora_spectra *spectra,
                                            size_t index,
                                            lora_error *error);

/* The same of factors that are given, which are taken over, also on failure. */
LORA_PRIVATE lora_status lora__spectra_take(lora__spectra_work *out,
                                            lora__factors *factors,
                                            lora_error *error);
LORA_PRIVATE void lora__spectra_close(lora__spectra_work *work);

/* As lora__svd_truncate(). */
LORA_PRIVATE lora_status lora__spectra_truncate(double *up_t,
                                                double *down,
                                                const lora__spectra_work *work,
                                                size_t k,
                                                lora_error *error);

/* The singular values at work, with the scale, into room for svd->count. */
LORA_PRIVATE lora__spectrum lora__spectra_read(const lora__spectra_work *work,
                                               double *sigma);

/* Spectra of which nothing is decomposed yet. */
LORA_PRIVATE lora_status lora__spectra_begin(lora_spectra *out,
                                             const lora_adapter *adapter,
                                             lora_error *error);
LORA_PRIVATE void lora__spectra_end(lora_spectra *spectra);

/* Decompose everything, unless that was done. Modules that have no factors,
 * or bad ones, are passed over: it is for those who use them to refuse. */
LORA_PRIVATE lora_status lora__spectra_complete(lora_spectra *spectra,
                                                lora_error *error);

#endif
