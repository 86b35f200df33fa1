/* PEFT's configuration: adapter_config.json, or what diffusers keeps in the
 * metadata entry lora_adapter_metadata, with the component before each field
 * ("unet.lora_alpha"). Source: formats.md 6.2 and 7.2.
 */
#ifndef LORA__ADAPTER_CONFIG_H
#define LORA__ADAPTER_CONFIG_H

#include "adapter/adapter.h"

/* The metadata entry of diffusers. */
#define LORA__CONFIG_KEY "lora_adapter_metadata"

/* That of llama.cpp, a number: the alpha of all modules. */
#define LORA__CONFIG_ALPHA_KEY "adapter.lora.alpha"

/* Numbers by the path of a module, or by its end. */
typedef struct lora__peft_patterns {
    lora__map ends;     /* module path or its end -> index into values */
    lora__map anchored; /* the same for "^...": the whole path */
    double *values;     /* in the order of the file */
    size_t count;
    size_t capacity;
    const char *unread; /* a pattern that is a regular expression, or NULL */
} lora__peft_patterns;

/* How OFT makes rotations of its numbers. */
typedef struct lora__peft_oft {
    int is_told; /* the configuration says whether by the series */
    int series;  /* 1: by so many terms of a series, else exactly */
    int shared;  /* one block serves all of the layer */
    int limited; /* blocks have no larger a norm than `eps` allows */
    int version; /* of PEFT, 0.17 being 17; 0: before 0.18, which says it */
    double terms;
    double eps;
} lora__peft_oft;

struct lora__peft_config {
    lora__peft_config *next;
    const char *component; /* "unet"; "" in an adapter_config.json */
    double alpha;          /* 0 if not given */
    double rank;           /* 0 if not given */
    double first_rank;     /* AdaLoRA's init_r; 0 if not given */
    int rslora;
    int transposed; /* fan_in_fan_out: weights are stored [in, out] */
    lora__peft_patterns alphas;
    lora__peft_patterns ranks;
    lora__map feedforward; /* module paths, or their ends, of IA3's layers that
                            * scale inputs; of no use if !feedforward_given */
    int feedforward_given; /* the configuration has such a list */
    lora__peft_oft oft;
};

/* Parse into the arena; FORMAT if it is no JSON object. To be destroyed, also
 * after a failure. */
LORA_PRIVATE lora_status lora__config_parse(lora__peft_config **out,
                                            lora__arena *arena,
                                            const char *text,
                                            size_t bytes,
                                            const char *subject,
                                            lora_error *error);

/* A configuration with one alpha for all modules, from its text; what is no
 * number becomes NaN, with which no module can be used. */
LORA_PRIVATE lora_status lora__config_for_all(lora__peft_config **out,
                                              lora__arena *arena,
                                              const char *alpha,
                                              lora_error *error);

LORA_PRIVATE void lora__config_destroy(lora__peft_config *config);

/* The alpha of a canonical target, and whether rsLoRA scales it; 0 if the
 * configuration does not cover it. */
LORA_PRIVATE int lora__config_alpha(double *out_alpha,
                                    int *out_rslora,
                                    const lora__peft_config *config,
                                    const char *target);

/* The rank it says a canonical target has, PEFT's default where it does not;
 * NaN where that is not certain. Tensors tell it too, unless they are whole. */
LORA_PRIVATE double lora__config_rank(const lora__peft_config *config,
                                      const char *target);

/* The rank that AdaLoRA began with, 0 if it does not say. */
LORA_PRIVATE double lora__config_first_rank(const lora__peft_config *config,
                                            const char *target);

/* Whether the configuration says that the weight of a target is stored [in,
 * out], as GPT-2's are. */
LORA_PRIVATE int lora__config_transposed(const lora__peft_config *config,
                                         const char *target);

/* Whether the configuration says which layers of IA3 scale their inputs, and
 * then whether a target is one. */
LORA_PRIVATE int lora__config_feedforward(int *out,
                                          const lora__peft_config *config,
                                          const char *target);

/* How OFT's blocks of a target are to be read; NULL where the configuration
 * does not say. */
LORA_PRIVATE const lora__peft_oft *
lora__config_oft(const lora__peft_config *config, const char *target);

/* Bytes of the component that a canonical target begins with ("unet"), or 0
 * where it begins with none of a pipeline's. */
LORA_PRIVATE size_t lora__config_component(const char *target);

#endif
