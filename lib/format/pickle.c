/* The stack machine. See pickle.h. */
#include "format/pickle.h"

#include "format/quote.h"

#include <string.h>

/* Values on the stack at once: pickle adds items a thousand at a time. */
#define PICKLE_MAX_STACK ((size_t)1 << 20)

/* Nodes for one tensor that the limits allow; torch needs about eight. */
#define PICKLE_NODES_PER_TENSOR 16

/* The longest name of a module, or of something in it. */
#define PICKLE_MAX_GLOBAL 255

typedef struct pickle_stack {
    lora__pickle_value *values;
    size_t count;
    size_t capacity;
} pickle_stack;

typedef struct pickle_machine {
    lora_context *context;
    lora__arena *arena;
    const char *path;
    uint64_t offset; /* of the text, in the file, or LORA_NO_OFFSET */
    const unsigned char *text;
    size_t bytes;
    size_t at;   /* the next byte to read */
    size_t here; /* the operation that runs */
    pickle_stack stack;
    pickle_stack memo; /* MARK: never put there */
    uint64_t nodes;
    uint64_t max_nodes;
    lora__pickle_value persistent;
    int stopped;
} pickle_machine;

/* Where in the file a byte of the text is. */
static uint64_t pickle_offset(const pickle_machine *m, size_t at)
{
    return m->offset == LORA_NO_OFFSET ? LORA_NO_OFFSET : m->offset + at;
}

static lora_status pickle_fail(const pickle_machine *m,
                               lora_status status,
                               const char *what,
                               lora_error *error)
{
    return lora__fail(error, status, pickle_offset(m, m->here), m->path,
                      "pickle: %s", what);
}

/* The next bytes of the text. */
static lora_status pickle_take(const unsigned char **out,
                               pickle_machine *m,
                               uint64_t bytes,
                               lora_error *error)
{
    *out = m->text + m->at;
    if (bytes > m->bytes - m->at) {
        return lora__fail(error, LORA_ERROR_TRUNCATED,
                          pickle_offset(m, m->bytes), m->path,
                          "ends within a pickle");
    }
    m->at += (size_t)bytes;
    return LORA_OK;
}

/* The next unsigned number of `bytes` bytes. */
static lora_status pickle_take_number(uint64_t *out,
                                      pickle_machine *m,
                                      uint32_t bytes,
                                      lora_error *error)
{
    const unsigned char *p;

    TRY(pickle_take(&p, m, bytes, error));
    *out = 0;
    while (bytes-- > 0) {
        *out = *out << 8 | p[bytes];
    }
    return LORA_OK;
}

/* Room for at least `count` values. */
static lora_status pickle_reserve(pickle_machine *m,
                                  pickle_stack *stack,
                                  size_t count,
                                  lora_error *error)
{
    void *values = stack->values;
    size_t old = stack->capacity;

    TRY(lora__grow(&values, &stack->capacity, m->context, count,
                   sizeof *stack->values, error));
    stack->values = values;
    memset(stack->values + old, 0,
           (stack->capacity - old) * sizeof *stack->values);
    return LORA_OK;
}

static void pickle_free(pickle_machine *m, pickle_stack *stack)
{
    lora__free(m->context, stack->values,
               stack->capacity * sizeof *stack->values, LORA__ALIGN);
}

static lora_status
pickle_push(pickle_machine *m, lora__pickle_value value, lora_error *error)
{
    if (m->stack.count == PICKLE_MAX_STACK) {
        return pickle_fail(m, LORA_ERROR_LIMIT, "too many values at once",
                           error);
    }
    TRY(pickle_reserve(m, &m->stack, m->stack.count + 1, error));
    m->stack.values[m->stack.count++] = value;
    return LORA_OK;
}

static lora_status pickle_push_type(pickle_machine *m,
                                    lora__pickle_type type,
                                    int64_t integer,
                                    lora_error *error)
{
    lora__pickle_value value = {.type = type, .as.integer = integer};

    return pickle_push(m, value, error);
}

/* The `count` topmost values, with no mark among them. They stay until the
 * next push. */
static lora_status pickle_pop(lora__pickle_value **out,
                              pickle_machine *m,
                              size_t count,
                              lora_error *error)
{
    *out = m->stack.values;
    if (count > m->stack.count) {
        return pickle_fail(m, LORA_ERROR_FORMAT, "takes more than there is",
                           error);
    }
    *out += m->stack.count - count;
    for (size_t i = 0; i < count; i++) {
        if ((*out)[i].type == LORA__PICKLE_MARK) {
            return pickle_fail(m, LORA_ERROR_FORMAT, "takes more than there is",
                               error);
        }
    }
    m->stack.count -= count;
    return LORA_OK;
}

/* All values above the topmost mark, which goes too. */
static lora_status pickle_pop_to_mark(lora__pickle_value **out,
                                      size_t *out_count,
                                      pickle_machine *m,
                                      lora_error *error)
{
    size_t i = m->stack.count;

    *out = m->stack.values;
    *out_count = 0;
    while (i > 0 && m->stack.values[i - 1].type != LORA__PICKLE_MARK) {
        i--;
    }
    if (i == 0) {
        return pickle_fail(m, LORA_ERROR_FORMAT, "there is no mark", error);
    }
    *out += i;
    *out_count = m->stack.count - i;
    m->stack.count = i - 1;
    return LORA_OK;
}

/* Nodes ------------------------------------------------------------------ */

/* Add items to a node. */
static lora_status pickle_add(pickle_machine *m,
                              lora__pickle_node *node,
                              const lora__pickle_value *values,
                              size_t count,
                              lora_error *error)
{
    lora__pickle_items *items;
    size_t bytes = sizeof *items + count * sizeof *values;

    if (count == 0) {
        return LORA_OK;
    }
    items = lora__arena_alloc(m->arena, bytes);
    if (items == NULL) {
        return lora__fail_memory(error, bytes);
    }
    items->next = NULL;
    items->count = count;
    memcpy(items->values, values, count * sizeof *values);
    if (node->first == NULL) {
        node->first = items;
    } else {
        node->last->next = items;
    }
    node->last = items;
    return LORA_OK;
}

static lora_status pickle_make(lora__pickle_value *out,
                               pickle_machine *m,
                               lora__pickle_type type,
                               const lora__pickle_value *values,
                               size_t count,
                               lora_error *error)
{
    void *node;

    if (m->nodes == m->max_nodes) {
        return pickle_fail(m, LORA_ERROR_LIMIT,
                           "more objects than the limit of tensors allows",
                           error);
    }
    m->nodes++;
    TRY(lora__arena_zeroed(&node, m->arena, 1, sizeof *out->as.node, error));
    memset(out, 0, sizeof *out);
    out->type = type;
    out->as.node = node;
    out->as.node->offset = pickle_offset(m, m->here);
    return pickle_add(m, out->as.node, values, count, error);
}

static lora_status pickle_push_node(pickle_machine *m,
                                    lora__pickle_type type,
                                    const lora__pickle_value *values,
                                    size_t count,
                                    lora_error *error)
{
    lora__pickle_value made;

    TRY(pickle_make(&made, m, type, values, count, error));
    return pickle_push(m, made, error);
}

/* Globals ---------------------------------------------------------------- */

/* Push a global, unless it is refused. Both names are TEXT. */
static lora_status pickle_push_global(pickle_machine *m,
                                      const lora__pickle_value names[2],
                                      lora_error *error)
{
    char text[2][PICKLE_MAX_GLOBAL + 1];
    char shown[2][81];

    for (size_t i = 0; i < 2; i++) {
        size_t bytes = names[i].text_bytes;

        if (bytes > PICKLE_MAX_GLOBAL) {
            return pickle_fail(m, LORA_ERROR_LIMIT,
                               "a global with a name over 255 bytes", error);
        }
        memcpy(text[i], names[i].as.text, bytes);
        text[i][bytes] = '\0';
        if (bytes == 0 || strlen(text[i]) != bytes) {
            return pickle_fail(m, LORA_ERROR_FORMAT, "a global that is no name",
                               error);
        }
        lora__quote(shown[i], sizeof shown[i], text[i], bytes);
    }
    if (!lora__pickle_knows(text[0], text[1])) {
        return lora__fail(error, LORA_ERROR_FORMAT, pickle_offset(m, m->here),
                          m->path,
                          "names %s.%s, which is not loaded: nothing was "
                          "executed",
                          shown[0], shown[1]);
    }
    return pickle_push_node(m, LORA__PICKLE_GLOBAL, names, 2, error);
}

/* Operations ------------------------------------------------------------- */

/* Each gets the argument of its row in the table below. */
typedef lora_status (*pickle_fn)(pickle_machine *m, uint32_t, lora_error *);

static lora_status
pickle_do_proto(pickle_machine *m, uint32_t argument, lora_error *error)
{
    uint64_t protocol;

    TRY(pickle_take_number(&protocol, m, argument, error));
    return protocol >= 2 && protocol <= 5
               ? LORA_OK
               : pickle_fail(m, LORA_ERROR_FORMAT, "unknown protocol", error);
}

static lora_status
pickle_do_frame(pickle_machine *m, uint32_t argument, lora_error *error)
{
    const unsigned char *p;
    uint64_t bytes;
    size_t at;

    TRY(pickle_take_number(&bytes, m, argument, error));
    at = m->at;
    TRY(pickle_take(&p, m, bytes, error));
    m->at = at; /* only a hint how far to read ahead */
    return LORA_OK;
}

static lora_status
pickle_do_stop(pickle_machine *m, uint32_t argument, lora_error *error)
{
    (void)argument;
    (void)error;
    m->stopped = 1;
    return LORA_OK;
}

/* MARK, NONE. */
static lora_status
pickle_do_constant(pickle_machine *m, uint32_t type, lora_error *error)
{
    return pickle_push_type(m, (lora__pickle_type)type, 0, error);
}

static lora_status
pickle_do_bool(pickle_machine *m, uint32_t argument, lora_error *error)
{
    return pickle_push_type(m, LORA__PICKLE_BOOL, argument, error);
}

/* BININT (4 bytes, signed), BININT1, BININT2. */
static lora_status
pickle_do_integer(pickle_machine *m, uint32_t bytes, lora_error *error)
{
    uint64_t number;

    TRY(pickle_take_number(&number, m, bytes, error));
    return pickle_push_type(m, LORA__PICKLE_INTEGER,
                            bytes == 4 && number > INT32_MAX
                                ? (int64_t)number - ((int64_t)1 << 32)
                                : (int64_t)number,
                            error);
}

/* LONG1, LONG4: two's complement of as many bytes as the length says. */
static lora_status
pickle_do_long(pickle_machine *m, uint32_t length, lora_error *error)
{
    const unsigned char *p;
    uint64_t bytes;
    uint64_t number;

    TRY(pickle_take_number(&bytes, m, length, error));
    TRY(pickle_take(&p, m, bytes, error));
    if (bytes > 8) {
        return pickle_push_type(m, LORA__PICKLE_OTHER, 0, error);
    }
    number = bytes > 0 && (p[bytes - 1] & 0x80u) != 0 ? UINT64_MAX : 0;
    while (bytes-- > 0) {
        number = number << 8 | p[bytes];
    }
    return pickle_push_type(m, LORA__PICKLE_INTEGER,
                            number > INT64_MAX
                                ? -(int64_t)(UINT64_MAX - number) - 1
                                : (int64_t)number,
                            error);
}

static lora_status
pickle_do_float(pickle_machine *m, uint32_t bytes, lora_error *error)
{
    const unsigned char *p;

    TRY(pickle_take(&p, m, bytes, error));
    return pickle_push_type(m, LORA__PICKLE_OTHER, 0, error);
}

static lora_status
pickle_do_text(pickle_machine *m, uint32_t length, lora_error *error)
{
    lora__pickle_value value = {.type = LORA__PICKLE_TEXT};
    const unsigned char *p;
    uint64_t bytes;

    TRY(pickle_take_number(&bytes, m, length, error));
    TRY(pickle_take(&p, m, bytes, error));
    if (bytes > UINT32_MAX) {
        return pickle_fail(m, LORA_ERROR_LIMIT, "a string over 4 GiB", error);
    }
    value.text_bytes = (uint32_t)bytes;
    value.as.text = (const char *)p;
    return pickle_push(m, value, error);
}

static lora_status
pickle_do_bytes(pickle_machine *m, uint32_t length, lora_error *error)
{
    const unsigned char *p;
    uint64_t bytes;

    TRY(pickle_take_number(&bytes, m, length, error));
    TRY(pickle_take(&p, m, bytes, error));
    return pickle_push_type(m, LORA__PICKLE_OTHER, 0, error);
}

/* EMPTY_TUPLE, EMPTY_LIST, EMPTY_DICT. */
static lora_status
pickle_do_empty(pickle_machine *m, uint32_t type, lora_error *error)
{
    return pickle_push_node(m, (lora__pickle_type)type, NULL, 0, error);
}

/* TUPLE1 to TUPLE3, or TUPLE (argument 0): to the mark. */
static lora_status
pickle_do_tuple(pickle_machine *m, uint32_t argument, lora_error *error)
{
    lora__pickle_value *values;
    size_t count = argument;

    TRY(argument == 0 ? pickle_pop_to_mark(&values, &count, m, error)
                      : pickle_pop(&values, m, argument, error));
    return pickle_push_node(m, LORA__PICKLE_TUPLE, values, count, error);
}

/* EMPTY_SET, and FROZENSET (argument 1): what is in the mark. */
static lora_status
pickle_do_set(pickle_machine *m, uint32_t argument, lora_error *error)
{
    static const lora__pickle_value none = {.type = LORA__PICKLE_NONE};
    const lora__pickle_value head[2] = {none, none};
    lora__pickle_value *values = NULL;
    lora__pickle_value made;
    size_t count = 0;

    if (argument != 0) {
        TRY(pickle_pop_to_mark(&values, &count, m, error));
    }
    TRY(pickle_make(&made, m, LORA__PICKLE_OBJECT, head, 2, error));
    TRY(pickle_add(m, made.as.node, values, count, error));
    return pickle_push(m, made, error);
}

/* Add `count` values, or those above the mark if it is 0, to what is below. An
 * object of a class that we do not know keeps whatever it is given. */
static lora_status pickle_extend(pickle_machine *m,
                                 size_t count,
                                 lora__pickle_type type,
                                 lora_error *error)
{
    lora__pickle_value *values;
    lora__pickle_value *below;

    TRY(count == 0 ? pickle_pop_to_mark(&values, &count, m, error)
                   : pickle_pop(&values, m, count, error));
    TRY(pickle_pop(&below, m, 1, error));
    m->stack.count++;
    if ((below->type != type && below->type != LORA__PICKLE_OBJECT) ||
        (type == LORA__PICKLE_DICT && count % 2 != 0)) {
        return pickle_fail(m, LORA_ERROR_FORMAT,
                           "adds to what is no list or dict, or half an item",
                           error);
    }
    return pickle_add(m, below->as.node, values, count, error);
}

/* APPEND (1), APPENDS and ADDITEMS (0). */
static lora_status
pickle_do_append(pickle_machine *m, uint32_t argument, lora_error *error)
{
    return pickle_extend(m, argument, LORA__PICKLE_LIST, error);
}

/* SETITEM (2), SETITEMS (0). */
static lora_status
pickle_do_set_items(pickle_machine *m, uint32_t argument, lora_error *error)
{
    return pickle_extend(m, argument, LORA__PICKLE_DICT, error);
}

static lora_status
pickle_do_pop(pickle_machine *m, uint32_t argument, lora_error *error)
{
    (void)argument;
    if (m->stack.count == 0) {
        return pickle_fail(m, LORA_ERROR_FORMAT, "takes more than there is",
                           error);
    }
    m->stack.count--; /* a mark may go too */
    return LORA_OK;
}

static lora_status
pickle_do_pop_mark(pickle_machine *m, uint32_t argument, lora_error *error)
{
    lora__pickle_value *values;
    size_t count;

    (void)argument;
    return pickle_pop_to_mark(&values, &count, m, error);
}

static lora_status
pickle_do_dup(pickle_machine *m, uint32_t argument, lora_error *error)
{
    lora__pickle_value *top;

    (void)argument;
    TRY(pickle_pop(&top, m, 1, error));
    m->stack.count++;
    return pickle_push(m, *top, error);
}

static lora_status
pickle_do_get(pickle_machine *m, uint32_t bytes, lora_error *error)
{
    uint64_t index;

    TRY(pickle_take_number(&index, m, bytes, error));
    if (index >= m->memo.capacity ||
        m->memo.values[index].type == LORA__PICKLE_MARK) {
        return pickle_fail(m, LORA_ERROR_FORMAT,
                           "uses a value that was never stored", error);
    }
    return pickle_push(m, m->memo.values[index], error);
}

/* BINPUT, LONG_BINPUT; MEMOIZE (0 bytes) takes the next index. Picklers count,
 * so that no index is beyond the number of bytes read. */
static lora_status
pickle_do_put(pickle_machine *m, uint32_t bytes, lora_error *error)
{
    uint64_t index = m->memo.count;
    lora__pickle_value *top;

    if (bytes > 0) {
        TRY(pickle_take_number(&index, m, bytes, error));
    }
    TRY(pickle_pop(&top, m, 1, error));
    m->stack.count++;
    if (index > m->at) {
        return pickle_fail(m, LORA_ERROR_LIMIT, "stores far beyond its length",
                           error);
    }
    TRY(pickle_reserve(m, &m->memo, (size_t)index + 1, error));
    m->memo.count += m->memo.values[index].type == LORA__PICKLE_MARK;
    m->memo.values[index] = *top;
    return LORA_OK;
}

/* GLOBAL: two lines. A line is looked for no further than a name may be. */
static lora_status
pickle_do_global(pickle_machine *m, uint32_t argument, lora_error *error)
{
    lora__pickle_value names[2] = {{.type = LORA__PICKLE_TEXT},
                                   {.type = LORA__PICKLE_TEXT}};

    (void)argument;
    for (size_t i = 0; i < 2; i++) {
        size_t left = m->bytes - m->at;
        size_t most =
            left <= PICKLE_MAX_GLOBAL ? left : (size_t)PICKLE_MAX_GLOBAL + 1;
        const char *begin = (const char *)m->text + m->at;
        const char *end = memchr(begin, '\n', most);

        if (end == NULL) {
            const unsigned char *p;
            TRY(pickle_take(&p, m, PICKLE_MAX_GLOBAL + 1, error));
            return pickle_fail(m, LORA_ERROR_LIMIT,
                               "a global with a name over 255 bytes", error);
        }
        names[i].as.text = begin;
        names[i].text_bytes = (uint32_t)(end - begin);
        m->at += names[i].text_bytes + 1;
    }
    return pickle_push_global(m, names, error);
}

static lora_status
pickle_do_stack_global(pickle_machine *m, uint32_t argument, lora_error *error)
{
    lora__pickle_value *names;

    (void)argument;
    TRY(pickle_pop(&names, m, 2, error));
    return names[0].type == LORA__PICKLE_TEXT &&
                   names[1].type == LORA__PICKLE_TEXT
               ? pickle_push_global(m, names, error)
               : pickle_fail(m, LORA_ERROR_FORMAT, "a global that is no name",
                             error);
}

/* REDUCE and NEWOBJ (2 values), NEWOBJ_EX (3): what would be a call. Dicts of
 * another class are dicts. */
static lora_status
pickle_do_call(pickle_machine *m, uint32_t count, lora_error *error)
{
    lora__pickle_value *values;

    TRY(pickle_pop(&values, m, count, error));
    if (values[0].type != LORA__PICKLE_GLOBAL ||
        values[1].type != LORA__PICKLE_TUPLE) {
        return pickle_fail(m, LORA_ERROR_FORMAT,
                           "calls what is no global: nothing was executed",
                           error);
    }
    if (lora__pickle_item(&values[1], 0) == NULL &&
        (lora__pickle_is_global(&values[0], "collections", "OrderedDict") ||
         lora__pickle_is_global(&values[0], "collections", "Counter"))) {
        return pickle_push_node(m, LORA__PICKLE_DICT, NULL, 0, error);
    }
    return pickle_push_node(m, LORA__PICKLE_OBJECT, values, count, error);
}

/* BUILD: an object keeps its state; attributes of a dict, such as the
 * _metadata of a state dict, are left out. */
static lora_status
pickle_do_build(pickle_machine *m, uint32_t argument, lora_error *error)
{
    lora__pickle_value *values;

    (void)argument;
    TRY(pickle_pop(&values, m, 2, error));
    m->stack.count++;
    if (values[0].type == LORA__PICKLE_OBJECT) {
        return pickle_add(m, values[0].as.node, &values[1], 1, error);
    }
    return values[0].type == LORA__PICKLE_DICT
               ? LORA_OK
               : pickle_fail(m, LORA_ERROR_FORMAT,
                             "sets the state of what is no object", error);
}

static lora_status
pickle_do_persistent(pickle_machine *m, uint32_t argument, lora_error *error)
{
    lora__pickle_value *id;
    lora__pickle_value made;

    (void)argument;
    TRY(pickle_pop(&id, m, 1, error));
    TRY(pickle_make(&made, m, LORA__PICKLE_PERSISTENT, id, 1, error));
    TRY(pickle_add(m, m->persistent.as.node, &made, 1, error));
    return pickle_push(m, made, error);
}

/* By operation. Whatever is absent is refused: the text forms of protocol 0,
 * extension codes, buffers outside of the pickle. */
static const struct {
    pickle_fn run;
    uint32_t argument;
} pickle_operations[256] = {
    ['('] = {pickle_do_constant, LORA__PICKLE_MARK},
    ['.'] = {pickle_do_stop, 0},
    ['0'] = {pickle_do_pop, 0},
    ['1'] = {pickle_do_pop_mark, 0},
    ['2'] = {pickle_do_dup, 0},
    ['N'] = {pickle_do_constant, LORA__PICKLE_NONE},
    ['J'] = {pickle_do_integer, 4},
    ['K'] = {pickle_do_integer, 1},
    ['M'] = {pickle_do_integer, 2},
    ['G'] = {pickle_do_float, 8},
    ['T'] = {pickle_do_text, 4}, /* str of Python 2 */
    ['U'] = {pickle_do_text, 1},
    ['X'] = {pickle_do_text, 4},
    ['B'] = {pickle_do_bytes, 4},
    ['C'] = {pickle_do_bytes, 1},
    ['Q'] = {pickle_do_persistent, 0},
    ['R'] = {pickle_do_call, 2},
    ['b'] = {pickle_do_build, 0},
    ['c'] = {pickle_do_global, 0},
    ['t'] = {pickle_do_tuple, 0},
    [')'] = {pickle_do_empty, LORA__PICKLE_TUPLE},
    [']'] = {pickle_do_empty, LORA__PICKLE_LIST},
    ['}'] = {pickle_do_empty, LORA__PICKLE_DICT},
    ['a'] = {pickle_do_append, 1},
    ['e'] = {pickle_do_append, 0},
    ['s'] = {pickle_do_set_items, 2},
    ['u'] = {pickle_do_set_items, 0},
    ['h'] = {pickle_do_get, 1},
    ['j'] = {pickle_do_get, 4},
    ['q'] = {pickle_do_put, 1},
    ['r'] = {pickle_do_put, 4},
    /* Protocol 2. */
    [0x80] = {pickle_do_proto, 1},
    [0x81] = {pickle_do_call, 2},
    [0x85] = {pickle_do_tuple, 1},
    [0x86] = {pickle_do_tuple, 2},
    [0x87] = {pickle_do_tuple, 3},
    [0x88] = {pickle_do_bool, 1},
    [0x89] = {pickle_do_bool, 0},
    [0x8A] = {pickle_do_long, 1},
    [0x8B] = {pickle_do_long, 4},
    /* Protocols 4 and 5. */
    [0x8C] = {pickle_do_text, 1},
    [0x8D] = {pickle_do_text, 8},
    [0x8E] = {pickle_do_bytes, 8},
    [0x8F] = {pickle_do_set, 0},
    [0x90] = {pickle_do_append, 0},
    [0x91] = {pickle_do_set, 1},
    [0x92] = {pickle_do_call, 3},
    [0x93] = {pickle_do_stack_global, 0},
    [0x94] = {pickle_do_put, 0},
    [0x95] = {pickle_do_frame, 8},
    [0x96] = {pickle_do_bytes, 8},
};

static lora_status pickle_run(pickle_machine *m, lora_error *error)
{
    while (!m->stopped) {
        const unsigned char *p;

        m->here = m->at;
        TRY(pickle_take(&p, m, 1, error));
        if (pickle_operations[*p].run == NULL) {
            return lora__fail(error, LORA_ERROR_FORMAT,
                              pickle_offset(m, m->here), m->path,
                              "pickle: unknown operation 0x%02x", (unsigned)*p);
        }
        TRY(pickle_operations[*p].run(m, pickle_operations[*p].argument,
                                      error));
    }
    if (m->stack.count != 1 || m->stack.values[0].type == LORA__PICKLE_MARK) {
        return pickle_fail(m, LORA_ERROR_FORMAT,
                           "does not end with just one value", error);
    }
    return LORA_OK;
}

LORA_PRIVATE lora_status lora__pickle_read(lora__pickle *out,
                                           lora__arena *arena,
                                           const void *text,
                                           size_t bytes,
                                           uint64_t offset,
                                           const char *path,
                                           lora_error *error)
{
    uint64_t tensors = lora__context_get(arena->context)->limits.tensor_count;
    pickle_machine m;
    lora_status status;

    memset(&m, 0, sizeof m);
    m.context = arena->context;
    m.arena = arena;
    m.path = path;
    m.offset = offset;
    m.text = text;
    m.bytes = bytes;
    m.max_nodes = tensors < UINT64_MAX / 32
                      ? tensors * PICKLE_NODES_PER_TENSOR + 65536
                      : UINT64_MAX;
    TRY_OR_DONE(
        pickle_make(&m.persistent, &m, LORA__PICKLE_LIST, NULL, 0, error));
    TRY_OR_DONE(pickle_run(&m, error));
    out->root = m.stack.values[0];
    out->persistent = m.persistent;
    out->bytes = m.at;
done:
    pickle_free(&m, &m.stack);
    pickle_free(&m, &m.memo);
    return status;
}
