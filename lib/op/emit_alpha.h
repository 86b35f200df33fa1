/* Alpha in metadata; see emit_alpha.c. */
#ifndef LORA__OP_EMIT_ALPHA_H
#define LORA__OP_EMIT_ALPHA_H

#include "op/emit.h"

/* Our own entry beside diffusers'. */
#define LORA__ALPHA_KEY "liblora.alpha"

/* What the configuration says of a module, but for its name and its alpha. */
LORA_PRIVATE void lora__alpha_describe(lora__emit_alpha *alpha,
                                       const lora__module *module,
                                       int64_t rank);

/* The text of lora_adapter_metadata or, where no target has a component, of an
 * adapter_config.json; sorts `alphas`. */
LORA_PRIVATE lora_status lora__alpha_put_config(lora__buffer *json,
                                                lora__emit_alpha *alphas,
                                                size_t count,
                                                lora_error *error);

/* The text of our entry. `added`: metadata keys to take out on the way back,
 * NULL-terminated. */
LORA_PRIVATE void lora__alpha_put_record(lora__buffer *json,
                                         const lora__emit_alpha *alphas,
                                         size_t count,
                                         const char *const *added);

/* *out_found is 0 if the adapter has no (sound) record. */
LORA_PRIVATE lora_status lora__alpha_read_record(lora__alpha_record *out,
                                                 int *out_found,
                                                 lora__arena *arena,
                                                 const lora_adapter *source,
                                                 lora_error *error);

/* How a module's alpha was stored: type NONE if it had none. *alpha becomes 0
 * if that is what was written. */
LORA_PRIVATE void lora__alpha_stored(double *alpha,
                                     lora_dtype *out_dtype,
                                     int32_t *out_ndim,
                                     const lora__alpha_record *record,
                                     const char *target);

#endif
