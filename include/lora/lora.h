/* liblora: adapters of the LoRA family for diffusion models.
 *
 * This header includes the others, in the order to read them.
 */
#ifndef LORA_LORA_H
#define LORA_LORA_H

#include <lora/version.h>

#include <lora/status.h>

#include <lora/context.h>

#include <lora/io.h>

#include <lora/tensor.h>

#include <lora/report.h>

#include <lora/adapter.h>

#include <lora/builder.h>

#include <lora/convert.h>

#include <lora/resize.h>

#include <lora/extract.h>

#include <lora/model.h>

#include <lora/fuse.h>

#include <lora/plan.h>

#include <lora/layer.h>

#include <lora/light.h>

#include <lora/check.h>

#include <lora/hash.h>

#include <lora/embed.h>

#include <lora/metadata.h>

#endif
