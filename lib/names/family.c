/* Families: the table of them, and matching names against their rules.
 *
 * No two targets of a family flatten to the same name in one spelling, but
 * those of two families may: then the first one is the answer, and the others
 * are named beside it, for the file as a whole to decide.
 */
#include "names/family.h"

#include "names/rules.h"

#include <string.h>

/* In the order of bits, which is also that of likelihood. */
static const lora__family family_table[LORA__FAMILY_MAX] = {
    {"sd15", LORA__FAMILY_SD15, "sd_v1", "stable-diffusion-v1", "sd_v1",
     "stable-diffusion-v1", 768, 0, 0},
    /* Which of the 512 and 768-v models, the targets do not tell. */
    {"sd21", LORA__FAMILY_SD21, "sd_v2", NULL, "sd_v2", "stable-diffusion-v2",
     1024, 0, 0},
    {"sdxl", LORA__FAMILY_SDXL, "sdxl_base_v1-0", "stable-diffusion-xl-v1-base",
     "sdxl_", "stable-diffusion-xl-v1-base", 2048, 0, 0},
    {"flux1_dev", LORA__FAMILY_FLUX, "flux1", NULL, "flux1", "flux-1", 0, 3072,
     LORA__FAMILY_CHROMA | LORA__FAMILY_HUNYUAN_VIDEO},
    {"chroma", LORA__FAMILY_CHROMA, "chroma", "chroma", "chroma", "chroma", 0,
     3072, 0},
    {"sd3_medium", LORA__FAMILY_SD3_MEDIUM, "medium",
     "stable-diffusion-3-medium", "medium", "stable-diffusion-3-medium", 0,
     1536, LORA__FAMILY_SD35_MEDIUM | LORA__FAMILY_SD35_LARGE},
    {"sd35_medium", LORA__FAMILY_SD35_MEDIUM, "5-medium",
     "stable-diffusion-3-5-medium", "5-medium", "stable-diffusion-3-5-medium",
     0, 1536, LORA__FAMILY_SD35_LARGE},
    {"sd35_large", LORA__FAMILY_SD35_LARGE, "5-large",
     "stable-diffusion-3-5-large", "5-large", "stable-diffusion-3-5-large", 0,
     2432, 0},
    {"lumina2", LORA__FAMILY_LUMINA2, "lumina2", "lumina-2", "lumina2",
     "lumina-2", 0, 2304, 0},
    {"auraflow", LORA__FAMILY_AURAFLOW, NULL, NULL, NULL, "auraflow", 0, 3072,
     0},
    {"wan21_t2v_14b", LORA__FAMILY_WAN_T2V, NULL, NULL, "wan", "wan2.1", 0,
     5120, LORA__FAMILY_WAN_I2V},
    {"wan21_i2v_14b", LORA__FAMILY_WAN_I2V, NULL, NULL, "wan", "wan2.1", 0,
     5120, 0},
    {"hunyuan_video", LORA__FAMILY_HUNYUAN_VIDEO, "hunyuan_video", NULL,
     "hunyuan_video", "hunyuan-video", 0, 3072, 0},
    {"ltx_video", LORA__FAMILY_LTX_VIDEO, NULL, NULL, NULL, "ltx-video", 0,
     2048, 0},
    {"stable_cascade_prior", LORA__FAMILY_CASCADE, NULL, NULL, NULL,
     "stable-cascade", 0, 0, 0},
    {"pixart_sigma", LORA__FAMILY_PIXART_SIGMA, NULL, NULL, NULL,
     "pixart-sigma", 0, 1152, 0},
    {"hunyuan_dit", LORA__FAMILY_HUNYUAN_DIT, NULL, NULL, NULL, "hunyuan-dit",
     0, 1408, 0},
    {"cogvideox_5b", LORA__FAMILY_COGVIDEOX, NULL, NULL, NULL, "cogvideox", 0,
     3072, 0},
    {"qwen_image", LORA__FAMILY_QWEN_IMAGE, "qwen_image", NULL, "qwen_image",
     "qwen-image", 0, 3072, 0},
};

static const lora__site_group *const family_groups[] = {
    &lora__rules_unet, &lora__rules_text,  &lora__rules_flux,
    &lora__rules_sd3,  &lora__rules_image, &lora__rules_video,
};

/* Families whose trainer's choice of layers is known: it is in the rules. Of
 * the others the linear layers in blocks are taken for it. */
#define FAMILY_TRAINED                                                         \
    (LORA__FAMILIES_UNET | LORA__FAMILY_FLUX | LORA__FAMILY_CHROMA |           \
     LORA__FAMILIES_SD3 | LORA__FAMILY_LUMINA2)

static const char *const family_component_names[LORA__COMPONENT_COUNT] = {
    "",
    "unet",
    "transformer",
    "prior",
    "text_encoder",
    "text_encoder_2",
    "text_encoder_3",
};

LORA_PRIVATE const char *lora__component_name(lora__component component)
{
    return family_component_names[component];
}

LORA_PRIVATE lora__component lora__component_take(const char **name,
                                                  size_t *bytes,
                                                  char separator)
{
    /* Backwards, as "text_encoder" begins the other encoders' names. */
    for (int i = LORA__COMPONENT_COUNT - 1; i > LORA__COMPONENT_ANY; i--) {
        const char *want = family_component_names[i];
        size_t length = strlen(want);
        if (*bytes > length && (*name)[length] == separator &&
            memcmp(*name, want, length) == 0) {
            *name += length + 1;
            *bytes -= length + 1;
            return (lora__component)i;
        }
    }
    return LORA__COMPONENT_ANY;
}

/* Matching ----------------------------------------------------------------- */

/* A name that is being looked up. */
typedef struct family_search {
    const lora__scope *scope;
    const char *name;
    const char *end;
    char separator;
    const char *seen; /* the furthest letter that told a site, or the end */
    lora__place *place;
    lora__family_set found;
    const lora__site *site; /* of the last spelling that the name is one of */
} family_search;

static const char *family_site_name(const lora__site *site, int original)
{
    return original ? site->original : site->name;
}

static const char *family_rule_name(const lora__rule *rule, int original)
{
    return original && rule->original != NULL ? rule->original : rule->name;
}

/* 0 if the name cannot be one of the rule's: most fail here. */
static int family_may_begin(const char *at, const char *end, const char *rule)
{
    return *rule == '\0' || *rule == '{' || (at < end && *at == *rule);
}

/* The same for its last letter. */
static int family_may_end(const char *at, const char *end, const char *rule)
{
    size_t bytes = strlen(rule);

    return bytes == 0 || rule[bytes - 1] == '}' ||
           (at < end && end[-1] == rule[bytes - 1]);
}

/* 1 and the head, if the name begins with the site's own name in that spelling
 * and the separator behind it. */
static int family_take_site(lora__site_head *out,
                            family_search *s,
                            const lora__site *site,
                            int original)
{
    const char *rule = family_site_name(site, original);
    lora__rule_cursor c = {0};
    int fits;

    if (rule == NULL || (site->is_alias && !original) ||
        !family_may_begin(s->name, s->end, rule)) {
        return 0;
    }
    c.at = s->name;
    c.end = s->end;
    c.seen = s->seen;
    c.separator = s->separator;
    c.depth = site->depth;
    fits = lora__rule_take(&c, rule) &&
           /* Numbers of the original name have the same bounds. */
           (!original || lora__rule_holds(&c, site->name));
    s->seen = c.seen;
    if (!fits || (*rule != '\0' && c.at != c.end && *c.at++ != c.separator)) {
        return 0;
    }
    s->seen = s->seen < c.at ? c.at : s->seen;
    out->site = site;
    out->bytes = (size_t)(c.at - s->name);
    out->original = original;
    out->count = c.count;
    memcpy(out->numbers, c.numbers, sizeof out->numbers);
    return 1;
}

static int family_same(const char *a, const char *b)
{
    return a == b || strcmp(a, b) == 0;
}

/* 1 if a second match is sure to be the same target as the first. */
static int family_agrees(const lora__place *place,
                         const lora__site *site,
                         const lora__rule *rule,
                         int original)
{
    if (place->component != site->component || place->original != original) {
        return 0;
    }
    return !original || (family_same(place->site->name, site->name) &&
                         family_same(place->rule->name, rule->name));
}

/* The families of the set that have the layer in their core. */
static lora__family_set family_core(const lora__site *site,
                                    const lora__rule *rule,
                                    lora__family_set set)
{
    lora__family_set core = 0;

    if (site->is_alias || (LORA__COMPONENT_BIT(site->component) &
                           LORA__COMPONENTS_BACKBONE) == 0) {
        return 0;
    }
    if (rule->is_default) {
        core |= set & FAMILY_TRAINED;
    }
    if (rule->layer == LORA__LAYER_LINEAR && strchr(site->name, '{') != NULL) {
        core |= set & ~FAMILY_TRAINED;
    }
    return core;
}

static void family_found(family_search *s,
                         const lora__site *site,
                         const lora__rule *rule,
                         int original,
                         const lora__rule_cursor *c)
{
    lora__place *place = s->place;
    lora__family_set set = site->families & rule->families &
                           s->scope->families & ~(s->found | place->also);

    if (set == 0) {
        return;
    }
    place->core |= family_core(site, rule, set);
    if (s->found == 0) {
        place->site = site;
        place->rule = rule;
        place->component = site->component;
        place->original = original;
        place->count = c->count;
        memcpy(place->numbers, c->numbers, sizeof place->numbers);
    } else if (!family_agrees(place, site, rule, original)) {
        place->also |= set;
        return;
    }
    s->found |= set;
    for (size_t f = 0; f < LORA__FAMILY_MAX; f++) {
        if ((set & family_table[f].bit) != 0) {
            place->layers[f] = (uint8_t)rule->layer;
        }
    }
}

/* Try the rules of a site behind its own name. The spellings of a site are
 * tried one after the other: a name that is one of both may be meant in either.
 * Returns the furthest letter that told, where `whole` says that it is asked
 * for: else some rules are given up by the last letter. */
static const char *
family_try_rules(family_search *s, const lora__site_head *head, int whole)
{
    const lora__site *site = head->site;
    const lora__family_set families = site->families & s->scope->families;
    const char *at = s->name + head->bytes;
    const char *seen = at;
    int fits = 0;

    for (size_t i = 0; i < site->rule_count; i++) {
        const lora__rule *rule = &site->rules[i];
        const char *name = family_rule_name(rule, head->original);
        lora__rule_cursor c = {0};

        if (!family_may_begin(at, s->end, name) ||
            (rule->families & families) == 0 ||
            (!whole && !family_may_end(at, s->end, name))) {
            continue;
        }
        c.at = at;
        c.end = s->end;
        c.seen = seen;
        c.separator = s->separator;
        c.depth = site->depth;
        c.count = head->count;
        memcpy(c.numbers, head->numbers, sizeof c.numbers);
        if (lora__rule_take(&c, name) && c.at == c.end) {
            family_found(s, site, rule, head->original, &c);
            fits = 1;
        }
        seen = c.seen;
    }
    if (fits) {
        s->place->both |= s->site == site;
        s->site = site;
    }
    return seen;
}

static int family_in_scope(const lora__scope *scope, const lora__site *site)
{
    uint32_t in = LORA__COMPONENT_BIT(site->slot);

    if (!site->is_alias) {
        in |= LORA__COMPONENT_BIT(site->component);
    }
    return (scope->components & in) != 0 &&
           (scope->families & site->families) != 0;
}

/* Try one spelling of a site. */
static void family_try_spelling(family_search *s,
                                lora__site_memo *memo,
                                const lora__site *site,
                                int original)
{
    lora__site_head head;

    if (!family_take_site(&head, s, site, original)) {
        return;
    }
    head.seen = family_try_rules(s, &head, 1);
    if (head.seen > s->seen && memo->count++ < LORA__MEMO_HEADS) {
        memo->heads[memo->count - 1] = head;
    }
}

/* Remember the sites, but those whose rules are all told not to fit by letters
 * that tell the site. */
static void family_remember(lora__site_memo *memo, const family_search *s)
{
    size_t count = memo->count;

    memo->scope = *s->scope;
    memo->separator = s->separator;
    memo->name = s->name;
    memo->seen = 0;
    memo->count = 0;
    if (count > LORA__MEMO_HEADS || s->seen == s->end) {
        return;
    }
    memo->seen = (size_t)(s->seen - s->name) + 1;
    for (size_t i = 0; i < count; i++) {
        if (memo->heads[i].seen > s->seen) {
            memo->heads[memo->count++] = memo->heads[i];
        }
    }
}

/* Compare the name with all sites. */
static void family_try_all(family_search *s, lora__site_memo *memo)
{
    const int first = s->scope->original_first;

    memo->count = 0;
    for (size_t g = 0; g < LORA__COUNT(family_groups); g++) {
        const lora__site_group *group = family_groups[g];

        if ((group->families & s->scope->families) == 0 ||
            (group->components & s->scope->components) == 0) {
            continue;
        }
        for (size_t i = 0; i < group->site_count; i++) {
            const lora__site *site = &group->sites[i];
            if (!family_in_scope(s->scope, site)) {
                continue;
            }
            family_try_spelling(s, memo, site, first);
            if (!s->scope->only_diffusers) {
                family_try_spelling(s, memo, site, !first);
            }
        }
    }
    family_remember(memo, s);
}

/* 1 if comparing the name with all sites would find those of the memo. */
static int family_remembers(const lora__site_memo *memo, const family_search *s)
{
    return memo->seen > 0 && memo->seen <= (size_t)(s->end - s->name) &&
           memo->separator == s->separator &&
           memcmp(memo->name, s->name, memo->seen) == 0 &&
           memo->scope.families == s->scope->families &&
           memo->scope.components == s->scope->components &&
           memo->scope.original_first == s->scope->original_first &&
           memo->scope.only_diffusers == s->scope->only_diffusers;
}

LORA_PRIVATE lora__family_set lora__family_match(lora__place *out,
                                                 lora__site_memo *memo,
                                                 const lora__scope *scope,
                                                 const char *name,
                                                 size_t bytes,
                                                 char separator)
{
    family_search s = {scope, name, name + bytes, separator, name,
                       out,   0,    NULL};

    memset(out, 0, sizeof *out);
    if (bytes == 0) {
        return 0;
    }
    if (family_remembers(memo, &s)) {
        for (size_t i = 0; i < memo->count; i++) {
            (void)family_try_rules(&s, &memo->heads[i], 0);
        }
    } else {
        family_try_all(&s, memo);
    }
    return s.found;
}

LORA_PRIVATE lora__family_set lora__family_match_target(lora__place *out,
                                                        lora__site_memo *memo,
                                                        lora__family_set wanted,
                                                        const char *target)
{
    size_t bytes = strlen(target);
    lora__component component = lora__component_take(&target, &bytes, '.');
    lora__site_memo none;
    lora__scope scope = {wanted, LORA__COMPONENT_BIT(component), 0, 1};
    lora__family_set found;

    memset(out, 0, sizeof *out);
    if (component == LORA__COMPONENT_ANY) {
        return 0;
    }
    if (memo == NULL) {
        none.seen = 0;
        memo = &none;
    }
    found = lora__family_match(out, memo, &scope, target, bytes, '.');
    if (found != 0) {
        return found;
    }
    scope.only_diffusers = 0;
    if (component == LORA__COMPONENT_TE) {
        scope.components |= LORA__COMPONENT_BIT(LORA__COMPONENT_OPENCLIP_H);
    } else if (component == LORA__COMPONENT_TE2) {
        scope.components |= LORA__COMPONENT_BIT(LORA__COMPONENT_OPENCLIP_G);
    }
    found = lora__family_match(out, memo, &scope, target, bytes, '.');
    return found != 0 && out->rule->rows != NULL ? found : 0;
}

/* Places ------------------------------------------------------------------- */

LORA_PRIVATE lora__layer lora__place_layer(const lora__place *place,
                                           lora__family_set known,
                                           const lora__family *family)
{
    lora__layer layer = LORA__LAYER_UNKNOWN;

    if (family != NULL && (known & family->bit) != 0) {
        return (lora__layer)place->layers[family - family_table];
    }
    for (size_t f = 0; f < LORA__FAMILY_MAX; f++) {
        if ((known & family_table[f].bit) == 0) {
            continue;
        }
        if (layer != LORA__LAYER_UNKNOWN && layer != place->layers[f]) {
            return LORA__LAYER_UNKNOWN;
        }
        layer = (lora__layer)place->layers[f];
    }
    return layer;
}

LORA_PRIVATE void lora__place_put(lora__buffer *out,
                                  const lora__place *place,
                                  int original,
                                  char separator)
{
    const lora__site *site = place->site;
    const char *head;
    const char *tail;
    int used = 0;

    original = original && site->original != NULL;
    head = family_site_name(site, original);
    tail = family_rule_name(place->rule, original);
    lora__rule_put(out, head, place->numbers, &used, separator);
    if (*head != '\0' && *tail != '\0') {
        lora__buffer_putc(out, separator);
    }
    lora__rule_put(out, tail, place->numbers, &used, separator);
}

LORA_PRIVATE lora__family_set lora__place_families(const lora__place *place)
{
    return place->site->families & place->rule->families;
}

LORA_PRIVATE lora__component lora__place_slot(const lora__place *place)
{
    return place->site->slot;
}

LORA_PRIVATE int lora__place_is_alias(const lora__place *place)
{
    return place->site->is_alias;
}

LORA_PRIVATE int lora__place_alias(lora__place *out, const lora__place *place)
{
    for (size_t g = 0; g < LORA__COUNT(family_groups); g++) {
        for (size_t i = 0; i < family_groups[g]->site_count; i++) {
            const lora__site *site = &family_groups[g]->sites[i];
            if (!site->is_alias || site->slot != place->site->slot ||
                (site->families & place->site->families) == 0 ||
                !family_same(site->name, place->site->name)) {
                continue;
            }
            for (size_t r = 0; r < site->rule_count; r++) {
                if (family_same(site->rules[r].name, place->rule->name)) {
                    *out = *place;
                    out->site = site;
                    out->rule = &site->rules[r];
                    return 1;
                }
            }
        }
    }
    return 0;
}

/* Rows --------------------------------------------------------------------- */

static size_t family_rows_count(const char *rows)
{
    size_t count = 1;

    for (; *rows != '\0'; rows++) {
        count += *rows == '|';
    }
    return count;
}

static uint16_t family_rows_number(const char **at)
{
    uint16_t value = 0;

    while (**at >= '0' && **at <= '9') {
        value = (uint16_t)(value * 10 + (**at - '0'));
        (*at)++;
    }
    return value;
}

/* The index-th alternative of "0:1|1:2/2". */
static void family_rows_read(lora__row_set *out, const char *rows, size_t index)
{
    const char *units = strchr(rows, '/');

    memset(out, 0, sizeof *out);
    out->transposed = units == NULL;
    if (units == NULL) {
        return;
    }
    units++;
    out->units = family_rows_number(&units);
    for (; index > 0; index--) {
        rows = strchr(rows, '|') + 1;
    }
    do {
        lora__slice *slice = &out->slices[out->slice_count++];
        slice->begin = family_rows_number(&rows);
        rows++;
        slice->end = family_rows_number(&rows);
    } while (*rows++ == ',' && out->slice_count < LORA__MAX_SLICES);
}

LORA_PRIVATE int lora__place_rows(lora__row_set *out, const lora__place *place)
{
    const char *rows = place->rule->rows;
    size_t index = 0;

    memset(out, 0, sizeof *out);
    if (rows == NULL) {
        return 0;
    }
    if (family_rows_count(rows) > 1) {
        index = (size_t)place->numbers[place->count - 1];
    }
    family_rows_read(out, rows, index);
    return 1;
}

/* 1 if the rule is of the same original weight as the place's. */
static int family_rule_shares(const lora__place *place,
                              lora__family_set family,
                              const lora__rule *rule)
{
    return rule->rows != NULL && (rule->families & family) != 0 &&
           family_same(family_rule_name(rule, 1),
                       family_rule_name(place->rule, 1));
}

LORA_PRIVATE size_t lora__place_part_count(const lora__place *place,
                                           lora__family_set family)
{
    const lora__site *site = place->site;
    size_t count = 0;

    if (!place->original || place->rule->rows == NULL) {
        return 0;
    }
    for (size_t i = 0; i < site->rule_count; i++) {
        if (family_rule_shares(place, family, &site->rules[i])) {
            count += family_rows_count(site->rules[i].rows);
        }
    }
    return count;
}

LORA_PRIVATE void lora__place_part(lora__place *out,
                                   lora__row_set *out_rows,
                                   const lora__place *place,
                                   lora__family_set family,
                                   size_t index)
{
    const lora__site *site = place->site;

    *out = *place;
    out->original = 0;
    for (size_t i = 0; i < site->rule_count; i++) {
        const lora__rule *rule = &site->rules[i];
        size_t count;

        if (!family_rule_shares(place, family, rule)) {
            continue;
        }
        count = family_rows_count(rule->rows);
        if (index < count) {
            out->rule = rule;
            if (count > 1) {
                out->numbers[out->count++] = (int16_t)index;
            }
            family_rows_read(out_rows, rule->rows, index);
            return;
        }
        index -= count;
    }
}

/* Listing ------------------------------------------------------------------ */

static size_t family_site_size(const lora__site *site, lora__family_set bit)
{
    size_t size = 0;

    if (site->is_alias || (site->families & bit) == 0) {
        return 0;
    }
    for (size_t i = 0; i < site->rule_count; i++) {
        if ((site->rules[i].families & bit) != 0) {
            size += lora__rule_size(site->rules[i].name, site->depth);
        }
    }
    return size * lora__rule_size(site->name, 0);
}

/* The site of the index-th target, and *index within it. */
static const lora__site *family_find_site(size_t *index, lora__family_set bit)
{
    for (size_t g = 0; g < LORA__COUNT(family_groups); g++) {
        const lora__site_group *group = family_groups[g];
        for (size_t i = 0; i < group->site_count; i++) {
            size_t size = family_site_size(&group->sites[i], bit);
            if (*index < size) {
                return &group->sites[i];
            }
            *index -= size;
        }
    }
    return NULL;
}

LORA_PRIVATE size_t lora__family_target_count(const lora__family *family)
{
    size_t count = SIZE_MAX;

    (void)family_find_site(&count, family->bit);
    return SIZE_MAX - count;
}

LORA_PRIVATE int lora__family_target_at(lora__buffer *out,
                                        lora__target *out_target,
                                        const lora__family *family,
                                        size_t index)
{
    const lora__site *site = family_find_site(&index, family->bit);
    lora__place place = {0};
    size_t size;

    if (site == NULL) {
        return 0;
    }
    size = family_site_size(site, family->bit) / lora__rule_size(site->name, 0);
    place.site = site;
    lora__rule_unrank(place.numbers, &place.count, site->name, 0, index / size);
    index %= size;
    for (const lora__rule *rule = site->rules;; rule++) {
        if ((rule->families & family->bit) == 0) {
            continue;
        }
        size = lora__rule_size(rule->name, site->depth);
        if (index < size) {
            place.rule = rule;
            lora__rule_unrank(place.numbers, &place.count, rule->name,
                              site->depth, index);
            out_target->layer = rule->layer;
            out_target->is_default = rule->is_default;
            break;
        }
        index -= size;
    }
    lora__buffer_puts(out, family_component_names[site->component]);
    lora__buffer_putc(out, '.');
    lora__place_put(out, &place, 0, '.');
    return 1;
}

LORA_PRIVATE size_t lora__family_core_count(const lora__family *family)
{
    size_t count = 0;

    for (size_t g = 0; g < LORA__COUNT(family_groups); g++) {
        for (size_t i = 0; i < family_groups[g]->site_count; i++) {
            const lora__site *site = &family_groups[g]->sites[i];
            size_t places = lora__rule_size(site->name, 0);

            if ((site->families & family->bit) == 0) {
                continue;
            }
            for (size_t r = 0; r < site->rule_count; r++) {
                const lora__rule *rule = &site->rules[r];
                if (family_core(site, rule, family->bit & rule->families) !=
                    0) {
                    count += places * lora__rule_size(rule->name, site->depth);
                }
            }
        }
    }
    return count;
}

/* The table ---------------------------------------------------------------- */

LORA_PRIVATE const char *lora__family_id(const lora__family *family)
{
    return family->id;
}

LORA_PRIVATE size_t lora__family_count(void)
{
    return LORA__COUNT(family_table);
}

LORA_PRIVATE const lora__family *lora__family_at(size_t index)
{
    return index < LORA__COUNT(family_table) ? &family_table[index] : NULL;
}

LORA_PRIVATE const lora__family *lora__family_find(const char *id)
{
    for (size_t i = 0; i < LORA__COUNT(family_table); i++) {
        if (strcmp(family_table[i].id, id) == 0) {
            return &family_table[i];
        }
    }
    return NULL;
}

LORA_PRIVATE const char *lora__family_ss_version(const lora__family *family)
{
    return family->ss_version;
}

LORA_PRIVATE const char *lora__family_architecture(const lora__family *family)
{
    return family->architecture;
}

LORA_PRIVATE lora__layer lora__family_layer(const lora__family *family,
                                            const char *target)
{
    lora__place place;
    lora__family_set known =
        lora__family_match_target(&place, NULL, family->bit, target);

    return lora__place_layer(&place, known, family);
}
