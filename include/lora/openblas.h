/* OpenBLAS and LAPACKE as a backend; a library of its own, liblora_openblas.
 *
 * The core library never links BLAS. A host that wants it links this library
 * too and passes the table to its context. OpenBLAS keeps private memory,
 * which no allocator hook sees, and some builds start threads when they are
 * loaded.
 */
#ifndef LORA_OPENBLAS_H
#define LORA_OPENBLAS_H

#include <lora/context.h>

#ifdef __cplusplus
extern "C" {
#endif

/** The backend table.
 *
 *  @return a static table for lora_context_options.backend.
 *  @threads safe.
 *  @since 0.1
 */
LORA_API const lora_backend *lora_openblas_backend(void);

#ifdef __cplusplus
}
#endif

#endif
