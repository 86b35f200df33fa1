/* Scanning values for NaN and infinity. */
#include "op/values.h"

#include "kernel/kernel.h"

#include <string.h>

enum { VALUES_CHUNK = 1024 };

/* Bits of a float's magnitude: they order like the magnitudes, and from
 * infinity's on nothing is finite. An integer maximum is what compilers
 * vectorise; comparing floats is not. */
#define VALUES_INFINITY 0x7F800000u

static uint32_t values_largest_bits(const float *values, size_t count)
{
    uint32_t largest = 0;

    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof bits);
        bits &= 0x7FFFFFFFu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

LORA_PRIVATE void lora__values_add(lora__values *out,
                                   const float *values,
                                   size_t count,
                                   uint64_t first)
{
    uint32_t bits = values_largest_bits(values, count);
    float largest;

    if (bits >= VALUES_INFINITY) {
        bits = 0;
        for (size_t i = 0; i < count; i++) {
            uint32_t one = values_largest_bits(values + i, 1);
            if (one >= VALUES_INFINITY) {
                out->first_bad = out->bad++ == 0 ? first + i : out->first_bad;
            } else {
                bits = one > bits ? one : bits;
            }
        }
    }
    memcpy(&largest, &bits, sizeof largest);
    out->largest =
        (double)largest > out->largest ? (double)largest : out->largest;
}

static void values_add_f64(lora__values *out,
                           const double *values,
                           size_t count,
                           uint64_t first)
{
    for (size_t i = 0; i < count; i++) {
        double magnitude = values[i] < 0.0 ? -values[i] : values[i];
        if (!(magnitude - magnitude == 0.0)) {
            out->first_bad = out->bad++ == 0 ? first + i : out->first_bad;
        } else if (magnitude > out->largest) {
            out->largest = magnitude;
        }
    }
}

LORA_PRIVATE lora_status lora__values_look(lora__values *out,
                                           const lora_adapter *adapter,
                                           size_t index,
                                           lora_error *error)
{
    return lora__values_look_at(out, adapter->container, index, error);
}

LORA_PRIVATE lora_status lora__values_look_at(lora__values *out,
                                              const lora__container *container,
                                              size_t index,
                                              lora_error *error)
{
    const lora__entry *entry = &container->entries[index];
    const lora__kernels *kernels =
        lora__kernels_get(lora__context_get(container->context)->cpu);
    size_t size = lora_dtype_bits(entry->dtype) / 8;
    unsigned char chunk[VALUES_CHUNK * sizeof(double)];
    double wide[VALUES_CHUNK];
    float narrow[VALUES_CHUNK];

    memset(out, 0, sizeof *out);
    if (!lora__dtype_is_float(entry->dtype)) {
        return LORA_OK;
    }
    for (uint64_t done = 0; done < entry->elements; done += VALUES_CHUNK) {
        uint64_t left = entry->elements - done;
        size_t count = left < VALUES_CHUNK ? (size_t)left : VALUES_CHUNK;
        TRY(lora__container_read(container, index, done * size, chunk,
                                 count * size, error));
        if (entry->dtype == LORA_DTYPE_F64) {
            memcpy(wide, chunk, count * size);
            values_add_f64(out, wide, count, done);
        } else {
            TRY(lora__convert_to_f32(narrow, chunk, entry->dtype, count,
                                     kernels, error));
            lora__values_add(out, narrow, count, done);
        }
    }
    return LORA_OK;
}

typedef struct values_job {
    const lora_adapter *adapter;
    lora__values *values;
} values_job;

static lora_status
values_tensor(void *arg, size_t index, uint32_t worker, lora_error *error)
{
    values_job *job = arg;

    (void)worker;
    return lora__values_look(&job->values[index], job->adapter, index, error);
}

LORA_PRIVATE lora_status lora__values_scan(lora__values *out,
                                           const lora_adapter *adapter,
                                           lora_error *error)
{
    values_job job = {adapter, out};

    return lora__run_jobs(adapter->context, "check", values_tensor, &job,
                          adapter->container->entry_count, error);
}

LORA_PRIVATE lora_status lora__values_check(const lora__values *values,
                                            const lora__entry *entry,
                                            lora_error *error)
{
    return values->bad == 0
               ? LORA_OK
               : lora__fail(error, LORA_ERROR_NONFINITE, entry->offset,
                            entry->name,
                            "%llu of %llu values are NaN or infinite, the "
                            "first is element %llu",
                            (unsigned long long)values->bad,
                            (unsigned long long)entry->elements,
                            (unsigned long long)values->first_bad);
}

LORA_PRIVATE lora_status lora__values_admit(unsigned char *left_out,
                                            const lora__values *values,
                                            const lora_adapter *adapter,
                                            int skip_bad,
                                            lora_error *error)
{
    for (size_t m = 0; m < adapter->module_count; m++) {
        const lora__module *module = &adapter->modules[m];
        lora_error found;
        lora_status status;

        if (left_out[m]) {
            continue;
        }
        lora_error_init(&found, sizeof found);
        status = lora__module_check(module, &found);
        for (size_t i = 0;
             values != NULL && status == LORA_OK && i < module->member_count;
             i++) {
            size_t index = module->members[i].entry;
            status = lora__values_check(
                &values[index], &adapter->container->entries[index], &found);
        }
        left_out[m] = status != LORA_OK;
        if (status != LORA_OK && !skip_bad) {
            return lora__error_merge(error, &found);
        }
    }
    return LORA_OK;
}
