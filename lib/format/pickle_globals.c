/* The globals that a pickle may name. */
#include "format/pickle.h"

#include "core/text.h"

/* What checkpoints name. None of it is called; what is not here would do
 * something else than hold data if another program loaded the file. */
static const struct {
    const char *module;
    const char *name;
} pickle_globals[] = {
    {"torch._utils", "_rebuild_*"},
    {"torch._tensor", "_rebuild_*"},
    {"torch", "*Storage"},
    {"torch.cuda", "*Storage"},
    {"torch.storage", "*Storage"},
    {"torch", "Size"},
    {"torch", "Tensor"},
    {"torch", "device"},
    {"torch", "bool"},
    {"torch", "int*"},
    {"torch", "uint*"},
    {"torch", "q*int*"},
    {"torch", "float*"},
    {"torch", "bfloat16"},
    {"torch", "complex*"},
    {"torch", "half"},
    {"torch", "short"},
    {"torch", "long"},
    {"torch", "double"},
    {"torch.serialization", "_get_layout"},
    {"torch.nn.*", "*"},
    {"torch.optim.*", "*"},
    {"collections", "*"},
    {"_codecs", "encode"},
    {"copyreg", "_reconstructor"},
    {"copy_reg", "_reconstructor"},
    {"builtins", "*set"},
    {"__builtin__", "*set"},
    {"builtins", "bytearray"},
    {"builtins", "complex"},
    {"__builtin__", "complex"},
    {"builtins", "object"},
    {"__builtin__", "object"},
    {"numpy", "dtype"},
    {"numpy", "ndarray"},
    {"numpy*.multiarray", "scalar"},
    {"numpy*.multiarray", "_reconstruct"},
    {"argparse", "Namespace"},
    {"pathlib", "*Path"},
    {"typing", "Any"},
    {"omegaconf.*", "*"},
    {"lightning.*", "*"},
    {"lightning_fabric.*", "*"},
    {"pytorch_lightning.*", "*"},
};

LORA_PRIVATE int lora__pickle_knows(const char *module, const char *name)
{
    for (size_t i = 0; i < LORA__COUNT(pickle_globals); i++) {
        if (lora__text_matches(pickle_globals[i].module, module) &&
            lora__text_matches(pickle_globals[i].name, name)) {
            return 1;
        }
    }
    return 0;
}
