/* Pass a failure on to the caller. */
#ifndef ENGINE_TRY_H
#define ENGINE_TRY_H

#define TRY(call)                                                              \
    do {                                                                       \
        lora_status try_status = (call);                                       \
        if (try_status != LORA_OK) {                                           \
            return try_status;                                                 \
        }                                                                      \
    } while (0)

#endif
