/* lora version: what this program is made of. */
#include "cmd.h"
#include "json.h"

#include <stdio.h>

static int version_has(const char *feature)
{
#if defined(LORA_HAVE_OPENBLAS) || defined(LORA_OPENBLAS_FILE)
    if (feature[0] == 'o') {
        return 1;
    }
#endif
    return lora_feature_supported(feature) != 0;
}

static int
version_run(app_state *app, int count, char **operands, const void *settings)
{
    static const char *const features[] = {"threads", "simd", "zlib", "map",
                                           "openblas"};
    size_t feature_count = sizeof features / sizeof features[0];
    (void)count;
    (void)operands;
    (void)settings;
    if (!app->common.json) {
        printf("lora %s\n", lora_version_string());
        if (!app->common.quiet) {
            printf("%s\n", lora_build_info());
        }
        return 0;
    }
    fputs("{\"version\":", stdout);
    json_put_string(stdout, lora_version_string());
    fputs(",\"build\":", stdout);
    json_put_string(stdout, lora_build_info());
    fputs(",\"features\":{", stdout);
    for (size_t i = 0; i < feature_count; i++) {
        printf("%s\"%s\":%s", i > 0 ? "," : "", features[i],
               version_has(features[i]) ? "true" : "false");
    }
    puts("}}");
    return 0;
}

const app_verb cmd_version = {
    "version",
    "",
    "version, and what is in this build",
    "lora version\tfor people\n"
    "lora version --json\tfor programs\n",
    NULL,
    NULL,
    OPT_GROUP_TALK | OPT_GROUP_JSON,
    0,
    0,
    0,
    0,
    version_run,
};
