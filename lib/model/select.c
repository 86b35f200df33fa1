/* Choosing modules by component, block, sort of layer or name. */
#include "model/select.h"

#include "core/text.h"
#include "model/pipeline.h"

#include <math.h>
#include <string.h>

/* ---- blocks ------------------------------------------------------------ */

/* A number of one digit and the dot after it; -1 if there is none. */
static int select_digit(const char **at)
{
    const char *text = *at;

    if (text[0] < '0' || text[0] > '9' || text[1] != '.') {
        return -1;
    }
    *at = text + 2;
    return text[0] - '0';
}

static int select_skip(const char **at, const char *word)
{
    if (!lora__text_begins(*at, strlen(*at), word)) {
        return 0;
    }
    *at += strlen(word);
    return 1;
}

static void select_put_block(char *out, const char *side, int number)
{
    size_t bytes = strlen(side);

    memcpy(out, side, bytes);
    out[bytes] = (char)('0' + number / 10);
    out[bytes + 1] = (char)('0' + number % 10);
    out[bytes + 2] = '\0';
}

/* Three blocks a level: going down two layers and the step to the next level,
 * after the first convolution; going up three layers, the step in the last. */
LORA_PRIVATE void lora__select_block(char out[LORA__BLOCK_NAME],
                                     const char *target)
{
    const char *at = target;
    int level;
    int layer = 2;
    int up;

    memcpy(out, "BASE", sizeof "BASE");
    if (!select_skip(&at, "unet.")) {
        return;
    }
    if (select_skip(&at, "mid_block.")) {
        select_put_block(out, "M", 0);
        return;
    }
    if (strcmp(at, "conv_in") == 0) {
        select_put_block(out, "IN", 0);
        return;
    }
    up = select_skip(&at, "up_blocks.");
    if (!up && !select_skip(&at, "down_blocks.")) {
        return;
    }
    level = select_digit(&at);
    if (select_skip(&at, "resnets.") || select_skip(&at, "attentions.")) {
        layer = select_digit(&at);
    }
    if (level < 0 || level > 3 || layer < 0 || layer > 2) {
        return;
    }
    select_put_block(out, up ? "OUT" : "IN", 3 * level + layer + !up);
}

static int select_is_block(const char *text)
{
    size_t bytes;

    if (strcmp(text, "BASE") == 0 || strcmp(text, "M00") == 0) {
        return 1;
    }
    if (!select_skip(&text, "IN") && !select_skip(&text, "OUT")) {
        return 0;
    }
    bytes = strlen(text);
    return bytes == 2 && text[0] >= '0' && text[0] <= '1' && text[1] >= '0' &&
           text[1] <= (text[0] == '1' ? '1' : '9');
}

/* ---- sorts of layers --------------------------------------------------- */

/* What the parts of a name between dots, or underscores where it is flat, say
 * of the layer. */
enum { SELECT_SELF = 1, SELECT_CROSS = 2, SELECT_FF = 4 };

static int select_word(const char *word, size_t bytes)
{
    static const struct {
        const char *end;
        int sort;
    } words[] = {
        {"attn2", SELECT_CROSS},    {"cross_attn", SELECT_CROSS},
        {"attn1", SELECT_SELF},     {"attn", SELECT_SELF},
        {"attention", SELECT_SELF}, {"mlp", SELECT_FF},
        {"ff", SELECT_FF},          {"ffn", SELECT_FF},
        {"ff_context", SELECT_FF},  {"feed_forward", SELECT_FF},
    };

    for (size_t i = 0; i < LORA__COUNT(words); i++) {
        size_t end = strlen(words[i].end);
        if (lora__text_ends(word, bytes, words[i].end) &&
            (bytes == end || word[bytes - end - 1] == '_')) {
            return words[i].sort;
        }
    }
    return 0;
}

static int select_sorts(const char *target)
{
    int sorts = 0;

    while (*target != '\0') {
        size_t bytes = strcspn(target, ".");
        sorts |= select_word(target, bytes);
        target += bytes + (target[bytes] == '.');
    }
    return (sorts & SELECT_CROSS) != 0 ? sorts & ~SELECT_SELF : sorts;
}

static int select_is_conv(const lora__module *module)
{
    return module->layer == LORA__LAYER_CONV ||
           module->layer == LORA__LAYER_CONV1 ||
           module->layer == LORA__LAYER_CONV3 ||
           (module->layer == LORA__LAYER_UNKNOWN && module->ndim > 2);
}

static int select_is_side(const lora__module *module, const char *side)
{
    char block[LORA__BLOCK_NAME];

    lora__select_block(block, module->target);
    return lora__text_begins(block, strlen(block), side);
}

/* 1 or 0 for a word of the language, -1 for others. */
static int select_preset(const lora__module *module, const char *pattern)
{
    static const struct {
        const char *word;
        int sorts;
    } sorts[] = {{"attn", SELECT_SELF | SELECT_CROSS},
                 {"attn.self", SELECT_SELF},
                 {"attn.cross", SELECT_CROSS},
                 {"ff", SELECT_FF}};
    static const char *const sides[][2] = {
        {"blocks.down", "IN"}, {"blocks.mid", "M"}, {"blocks.up", "OUT"}};

    for (size_t i = 0; i < LORA__COUNT(sorts); i++) {
        if (strcmp(pattern, sorts[i].word) == 0) {
            return (select_sorts(module->target) & sorts[i].sorts) != 0;
        }
    }
    for (size_t i = 0; i < LORA__COUNT(sides); i++) {
        if (strcmp(pattern, sides[i][0]) == 0) {
            return select_is_side(module, sides[i][1]);
        }
    }
    if (strcmp(pattern, "te") == 0) {
        return lora__text_begins(module->component, strlen(module->component),
                                 "text_encoder");
    }
    if (strcmp(pattern, "conv") == 0) {
        return select_is_conv(module);
    }
    return strcmp(pattern, "norm") == 0 ? module->layer == LORA__LAYER_NORM
                                        : -1;
}

LORA_PRIVATE int lora__select_fits(const lora__module *module,
                                   const char *pattern)
{
    char block[LORA__BLOCK_NAME];
    int preset;

    if (lora__pipeline_component(pattern) != NULL) {
        return strcmp(module->component, pattern) == 0;
    }
    if (select_is_block(pattern)) {
        lora__select_block(block, module->target);
        return strcmp(block, pattern) == 0;
    }
    preset = select_preset(module, pattern);
    return preset >= 0 ? preset : lora__module_matches(module, pattern);
}

/* ---- lists ------------------------------------------------------------- */

#define SELECT_MOST 26

/* The blocks that a list has numbers for, in its order. */
typedef struct select_list {
    size_t count;
    const char *blocks[SELECT_MOST];
} select_list;

static const select_list select_lists[] = {
    {12,
     {"BASE", "IN04", "IN05", "IN07", "IN08", "M00", "OUT00", "OUT01", "OUT02",
      "OUT03", "OUT04", "OUT05"}},
    {17,
     {"BASE", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", "OUT03",
      "OUT04", "OUT05", "OUT06", "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"}},
    {20, {"BASE",  "IN00",  "IN01",  "IN02",  "IN03",  "IN04",  "IN05",
          "IN06",  "IN07",  "IN08",  "M00",   "OUT00", "OUT01", "OUT02",
          "OUT03", "OUT04", "OUT05", "OUT06", "OUT07", "OUT08"}},
    {26, {"BASE",  "IN00",  "IN01",  "IN02",  "IN03",  "IN04",  "IN05",
          "IN06",  "IN07",  "IN08",  "IN09",  "IN10",  "IN11",  "M00",
          "OUT00", "OUT01", "OUT02", "OUT03", "OUT04", "OUT05", "OUT06",
          "OUT07", "OUT08", "OUT09", "OUT10", "OUT11"}},
};

static int select_is_list(const char *pattern)
{
    return strchr(pattern, ',') != NULL &&
           strspn(pattern, "0123456789+-.eE, ") == strlen(pattern);
}

static lora_status select_refuse_list(const char *pattern, lora_error *error)
{
    return lora__fail(error, LORA_ERROR_OPTION, LORA_NO_OFFSET, pattern,
                      "block weights are 12, 17, 20 or 26 numbers");
}

static lora_status select_read_list(double *numbers,
                                    const select_list **out,
                                    const char *pattern,
                                    lora_error *error)
{
    const char *at = pattern;
    size_t count = 0;
    size_t used;

    for (;;) {
        at += strspn(at, " ");
        if (count == SELECT_MOST) {
            return select_refuse_list(pattern, error);
        }
        numbers[count++] = lora__text_to_double(at, strlen(at), &used);
        at += used;
        at += strspn(at, " ");
        if (used == 0 || !isfinite(numbers[count - 1]) ||
            (*at != ',' && *at != '\0')) {
            return select_refuse_list(pattern, error);
        }
        if (*at++ == '\0') {
            break;
        }
    }
    for (size_t i = 0; i < LORA__COUNT(select_lists); i++) {
        if (select_lists[i].count == count) {
            *out = &select_lists[i];
            return LORA_OK;
        }
    }
    return select_refuse_list(pattern, error);
}

static lora_status select_apply_list(double *factors,
                                     lora__selected *selected,
                                     const lora_adapter *adapter,
                                     lora_error *error)
{
    double numbers[SELECT_MOST];
    const select_list *list = NULL;

    TRY(select_read_list(numbers, &list, selected->pattern, error));
    for (size_t m = 0; m < adapter->module_count; m++) {
        char block[LORA__BLOCK_NAME];
        lora__select_block(block, adapter->modules[m].target);
        for (size_t i = 0; i < list->count; i++) {
            if (strcmp(block, list->blocks[i]) == 0) {
                factors[m] *= numbers[i] * selected->factor;
                selected->count++;
            }
        }
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__select_apply(double *factors,
                                            lora__selected *selected,
                                            const lora_adapter *adapter,
                                            lora_error *error)
{
    if (!isfinite(selected->factor)) {
        return lora__fail(error, LORA_ERROR_RANGE, LORA_NO_OFFSET,
                          selected->pattern, "a factor that is not finite");
    }
    if (select_is_list(selected->pattern)) {
        return select_apply_list(factors, selected, adapter, error);
    }
    for (size_t m = 0; m < adapter->module_count; m++) {
        if (lora__select_fits(&adapter->modules[m], selected->pattern)) {
            factors[m] *= selected->factor;
            selected->count++;
        }
    }
    return LORA_OK;
}
