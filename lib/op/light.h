/* Light-LoRA: what expanding, compressing, creating and verifying share. */
#ifndef LORA__OP_LIGHT_H
#define LORA__OP_LIGHT_H

#include "adapter/kind.h"
#include "adapter/light.h"
#include "op/emit.h"

#include <lora/light.h>

/* Sizes where nothing else says them. */
enum { LORA__LIGHT_DOWN = 100, LORA__LIGHT_UP = 50 };

#define LORA__LIGHT_DEFAULT_DRAWS "down_aux,down,up_aux"

/* A caller's recipe, for the modules of an adapter (NULL: for none), made in
 * the arena; to be destroyed with lora__light_destroy(), also on failure.
 * `family` is the one to take where none is given. NULL for a recipe gives the
 * defaults. */
LORA_PRIVATE lora_status lora__light_read(lora__light **out,
                                          lora__arena *arena,
                                          const lora_light_recipe *recipe,
                                          const lora_adapter *adapter,
                                          const lora__family *family,
                                          lora_error *error);

/* The adapter with a recipe in its metadata. */
LORA_PRIVATE lora_status lora__light_attach(lora_adapter **out,
                                            const lora_adapter *adapter,
                                            const lora_light_recipe *recipe,
                                            lora_error *error);

/* Put a recipe into the metadata that is being made. */
LORA_PRIVATE lora_status lora__light_set(lora_builder *builder,
                                         const lora__light *light,
                                         lora_error *error);

/* A recipe as this version knows it, checked. */
LORA_PRIVATE lora_status lora__light_recipe_check(lora_light_recipe *recipe,
                                                  const lora_light_recipe *in,
                                                  lora_error *error);

/* The options, checked. */
LORA_PRIVATE lora_status lora__light_options_read(lora_light_options *out,
                                                  const lora_light_options *in,
                                                  lora_error *error);

/* 1 if a module is a Light-LoRA: it has frozen matrices, stored or not. */
LORA_PRIVATE int lora__light_is(const lora__module *module);

/* Append the name that a role of a Light-LoRA has in a dialect: the factors
 * have names of their own where the frozen matrices have. */
LORA_PRIVATE lora_status lora__light_name(lora__buffer *out,
                                          const lora__dialect *dialect,
                                          lora__spelling *spelling,
                                          lora__role role,
                                          lora_error *error);

#endif
