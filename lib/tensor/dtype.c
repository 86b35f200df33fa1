/* Number types: sizes and names. */
#include <lora/tensor.h>

#include "platform/compiler.h"

typedef struct dtype_entry {
    const char *name;
    uint32_t bits;
} dtype_entry;

/* Indexed by lora_dtype. */
static const dtype_entry dtype_table[] = {
    {"NONE", 0},    {"BOOL", 8},    {"F4", 4},          {"F6_E2M3", 6},
    {"F6_E3M2", 6}, {"U8", 8},      {"I8", 8},          {"F8_E5M2", 8},
    {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8},
    {"I16", 16},    {"U16", 16},    {"F16", 16},        {"BF16", 16},
    {"I32", 32},    {"U32", 32},    {"F32", 32},        {"C64", 64},
    {"F64", 64},    {"I64", 64},    {"U64", 64},
};

static const dtype_entry *dtype_find(lora_dtype dtype)
{
    if (dtype < 0 || (size_t)dtype >= LORA__COUNT(dtype_table)) {
        dtype = LORA_DTYPE_NONE;
    }
    return &dtype_table[dtype];
}

static char dtype_lower(char c)
{
    return (char)(c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c);
}

/* 1 if `given` is `name` as it stands or all in lower case. */
static int dtype_name_is(const char *given, const char *name)
{
    int exact = 1;
    int lower = 1;

    for (; *name != '\0'; name++, given++) {
        exact &= *given == *name;
        lower &= *given == dtype_lower(*name);
        if (!exact && !lower) {
            return 0;
        }
    }
    return *given == '\0';
}

LORA_API uint32_t lora_dtype_bits(lora_dtype dtype)
{
    return dtype_find(dtype)->bits;
}

LORA_API const char *lora_dtype_name(lora_dtype dtype)
{
    return dtype_find(dtype)->name;
}

LORA_API lora_dtype lora_dtype_from_name(const char *name)
{
    if (name != NULL) {
        for (size_t i = 1; i < LORA__COUNT(dtype_table); i++) {
            /* Most differ in the first letter. */
            if ((*name | 0x20) == (*dtype_table[i].name | 0x20) &&
                dtype_name_is(name, dtype_table[i].name)) {
                return (lora_dtype)i;
            }
        }
    }
    return LORA_DTYPE_NONE;
}
