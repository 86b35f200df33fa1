/* The verbs, one file each. */
#ifndef CMD_H
#define CMD_H

#include "app.h"

extern const app_verb cmd_info;
extern const app_verb cmd_keys;
extern const app_verb cmd_check;
extern const app_verb cmd_bind;
extern const app_verb cmd_hash;
extern const app_verb cmd_meta;
extern const app_verb cmd_convert;
extern const app_verb cmd_delta;
extern const app_verb cmd_resize;
extern const app_verb cmd_extract;
extern const app_verb cmd_fuse;
extern const app_verb cmd_unfuse;
extern const app_verb cmd_light;
extern const app_verb cmd_embed;
extern const app_verb cmd_plot;
extern const app_verb cmd_demo;
extern const app_verb cmd_help;
extern const app_verb cmd_version;
extern const app_verb cmd_completion;

#endif
