/* The library from C++: the headers, the linkage, a handle in a smart pointer.
 */
#include <lora/lora.h>

#include <cstdio>
#include <memory>

struct ContextDestroy {
    void operator()(lora_context *context) const
    {
        lora_context_destroy(context);
    }
};

int main()
{
    lora_context *raw = nullptr;
    lora_error error;

    lora_error_init(&error, sizeof error);
    if (lora_context_create(&raw, nullptr, &error) != LORA_OK) {
        std::puts(error.message);
        return 1;
    }
    std::unique_ptr<lora_context, ContextDestroy> context(raw);
    std::puts(lora_build_info());
    return lora_version_number() == LORA_VERSION_NUMBER ? 0 : 1;
}
