/* Pickles: every operation makes the value it should, or is refused with the
 * place; nothing is called; time and memory are bounded whatever the bytes.
 */
#include "torch_files.h"

#include "format/pickle.h"

#define AT 1000 /* where the pickles lie, as it were */

static heap memory;
static lora_context *context;

static int begin(void **state)
{
    (void)state;
    context = make_context(&memory, NULL);
    return 0;
}

static int end(void **state)
{
    (void)state;
    end_context(&memory, context);
    return 0;
}

/* Read a pickle that has just its bytes; *arena keeps the values. */
static lora_status read_pickle(lora__pickle *out,
                               lora__arena *arena,
                               const blob *b,
                               lora_error *error)
{
    if (error != NULL) {
        lora_error_init(error, sizeof *error);
    }
    lora__arena_init(arena, context);
    return lora__pickle_read(out, arena, b->data, b->bytes, AT, "f", error);
}

/* Values as text: what a test wants to see of them. */
static void describe(lora__buffer *out, const lora__pickle_value *value)
{
    static const char *const open[] = {"(", "[", "{", "<", "#", "!"};
    static const char *const close[] = {")", "]", "}", ">", "", ""};
    lora__pickle_cursor cursor = lora__pickle_items_of(value);
    const lora__pickle_value *item;
    size_t count = 0;

    switch (value->type) {
    case LORA__PICKLE_NONE:
        lora__buffer_puts(out, "None");
        return;
    case LORA__PICKLE_BOOL:
        lora__buffer_puts(out, value->as.integer ? "True" : "False");
        return;
    case LORA__PICKLE_INTEGER:
        lora__buffer_printf(out, "%lld", (long long)value->as.integer);
        return;
    case LORA__PICKLE_TEXT:
        lora__buffer_putc(out, '\'');
        lora__buffer_append(out, value->as.text, value->text_bytes);
        lora__buffer_putc(out, '\'');
        return;
    case LORA__PICKLE_OTHER:
        lora__buffer_puts(out, "other");
        return;
    default:
        break;
    }
    assert_true(value->type >= LORA__PICKLE_TUPLE);
    lora__buffer_puts(out, open[value->type - LORA__PICKLE_TUPLE]);
    while ((item = lora__pickle_next(&cursor)) != NULL) {
        assert_ptr_equal(item, lora__pickle_item(value, count));
        lora__buffer_puts(out, count++ > 0 ? " " : "");
        describe(out, item);
    }
    assert_null(lora__pickle_item(value, count));
    lora__buffer_puts(out, close[value->type - LORA__PICKLE_TUPLE]);
}

typedef struct pickle_case {
    const char *pickle;
    size_t bytes;
    const char *expected;
} pickle_case;

#define CASE(literal, expected)                                                \
    {                                                                          \
        literal, sizeof(literal) - 1, expected                                 \
    }

static const pickle_case sound[] = {
    CASE("N.", "None"),
    CASE("\x80\2\x88.", "True"),
    CASE("\x89.", "False"),
    CASE("K\xFF.", "255"),
    CASE("M\1\2.", "513"),
    CASE("J\xFE\xFF\xFF\xFF.", "-2"),
    CASE("J\xFF\xFF\xFF\x7F.", "2147483647"),
    CASE("J\0\0\0\x80.", "-2147483648"),
    CASE("\x8A\0.", "0"),
    CASE("\x8A\1\xFF.", "-1"),
    CASE("\x8A\2\xFF\0.", "255"),
    CASE("\x8A\x08\0\0\0\0\0\0\0\x80.", "-9223372036854775808"),
    CASE("\x8A\x08\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7F.", "9223372036854775807"),
    CASE("\x8A\x09\0\0\0\0\0\0\0\0\1.", "other"),
    CASE("\x8B\1\0\0\0\5.", "5"),
    CASE("G\0\0\0\0\0\0\0\0.", "other"),
    CASE("X\2\0\0\0ab.", "'ab'"),
    CASE("\x8C\2ab.", "'ab'"),
    CASE("\x8D\1\0\0\0\0\0\0\0a.", "'a'"),
    CASE("U\1a.", "'a'"),
    CASE("T\1\0\0\0a.", "'a'"),
    CASE("C\1a.", "other"),
    CASE("B\1\0\0\0a.", "other"),
    CASE("\x8E\1\0\0\0\0\0\0\0a.", "other"),
    CASE("\x96\1\0\0\0\0\0\0\0a.", "other"),
    CASE(").", "()"),
    CASE("].", "[]"),
    CASE("}.", "{}"),
    CASE("K\1\x85.", "(1)"),
    CASE("K\1K\2\x86.", "(1 2)"),
    CASE("K\1K\2K\3\x87.", "(1 2 3)"),
    CASE("(K\1K\2K\3K\4t.", "(1 2 3 4)"),
    CASE("(t.", "()"),
    CASE("]K\1a(K\2K\3e(e.", "[1 2 3]"),
    CASE("}K\1K\2s(K\3K\4K\5K\6u.", "{1 2 3 4 5 6}"),
    CASE("\x8F(K\1\x90.", "!None None 1"),
    CASE("(K\1\x91.", "!None None 1"),
    CASE("K\1K\2"
         "0.",
         "1"),
    CASE("K\1(K\2K\3"
         "1.",
         "1"),
    CASE("K\1(0.", "1"),
    CASE("K\1"
         "2\x86.",
         "(1 1)"),
    CASE("K\7q\0"
         "0h\0.",
         "7"),
    CASE("K\7r\1\0\0\0"
         "0j\1\0\0\0.",
         "7"),
    CASE("\x80\4\x95\5\0\0\0\0\0\0\0K\7\x94"
         "0h\0.",
         "7"),
    CASE("]q\0h\0K\1a0K\2a.", "[1 2]"), /* one list, twice on the stack */
    CASE("ctorch\nSize\n.", "<'torch' 'Size'>"),
    CASE("\x8C\5torch\x8C\4Size\x93.", "<'torch' 'Size'>"),
    CASE("ctorch\nSize\n(K\1t\x85R.", "!<'torch' 'Size'> ((1))"),
    CASE("ctorch.nn.parameter\nParameter\n)\x81K\1b.",
         "!<'torch.nn.parameter' 'Parameter'> () 1"),
    CASE("ctorch.nn.a\nB\n)}\x92.", "!<'torch.nn.a' 'B'> () {}"),
    CASE("ccollections\nOrderedDict\n)RK\1K\2s}b.", "{1 2}"),
    CASE("ccollections\nCounter\n)RK\1K\2s.", "{1 2}"),
    CASE("ccollections\nOrderedDict\n]\x85R.",
         "!<'collections' 'OrderedDict'> ([])"),
    CASE("X\1\0\0\0aQ.", "#'a'"),
};

static void test_values(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sound / sizeof sound[0]; i++) {
        blob b = blob_of(sound[i].pickle, sound[i].bytes);
        lora__pickle pickle;
        lora__buffer text;
        lora__arena arena;
        lora_error error;

        lora__buffer_init(&text, context);
        if (read_pickle(&pickle, &arena, &b, &error) != LORA_OK) {
            fail_msg("%s: %s", sound[i].expected, error.message);
        }
        assert_int_equal(pickle.bytes, b.bytes);
        describe(&text, &pickle.root);
        assert_string_equal(text.data, sound[i].expected);
        lora__buffer_destroy(&text);
        lora__arena_destroy(&arena);
        free(b.data);
    }
}

/* Every persistent id is listed, in order; what follows the end is not read. */
static void test_persistent(void **state)
{
    blob b = blob_of("K\1Q0K\2Q.garbage", 16);
    lora__pickle pickle;
    lora__buffer text;
    lora__arena arena;

    (void)state;
    lora__buffer_init(&text, context);
    assert_int_equal(read_pickle(&pickle, &arena, &b, NULL), LORA_OK);
    assert_int_equal(pickle.bytes, 8);
    describe(&text, &pickle.persistent);
    assert_string_equal(text.data, "[#1 #2]");
    lora__buffer_destroy(&text);
    lora__arena_destroy(&arena);
    free(b.data);
}

typedef struct refused_case {
    const char *pickle;
    size_t bytes;
    lora_status status;
    size_t offset;
    const char *message;
} refused_case;

#define REFUSED(literal, status, offset, message)                              \
    {                                                                          \
        literal, sizeof(literal) - 1, LORA_ERROR_##status, offset, message     \
    }

static void test_refused(void **state)
{
    static const refused_case cases[] = {
        REFUSED("\x80\1.", FORMAT, 0, "protocol"),
        REFUSED("\x80\6.", FORMAT, 0, "protocol"),
        REFUSED("NN.", FORMAT, 2, "one value"),
        REFUSED(".", FORMAT, 0, "one value"),
        REFUSED("(.", FORMAT, 1, "one value"),
        REFUSED("I1\n.", FORMAT, 0, "unknown operation 0x49"),
        REFUSED("N\x97.", FORMAT, 1, "unknown operation 0x97"),
        REFUSED("P1\n.", FORMAT, 0, "unknown operation"),
        REFUSED("(ios\nsystem\n.", FORMAT, 1, "unknown operation"),
        REFUSED("Nh\0.", FORMAT, 1, "never stored"),
        REFUSED("Nq\x40.", LIMIT, 1, "beyond"),
        REFUSED("Nr\xFF\xFF\xFF\xFF.", LIMIT, 1, "beyond"),
        REFUSED("q\0.", FORMAT, 0, "more than there is"),
        REFUSED("(q\0.", FORMAT, 1, "more than there is"),
        REFUSED("0.", FORMAT, 0, "more than there is"),
        REFUSED("2.", FORMAT, 0, "more than there is"),
        REFUSED("Q.", FORMAT, 0, "more than there is"),
        REFUSED("N\x86.", FORMAT, 1, "more than there is"),
        REFUSED("N(N\x86.", FORMAT, 3, "more than there is"),
        REFUSED("Nt.", FORMAT, 1, "no mark"),
        REFUSED("1.", FORMAT, 0, "no mark"),
        REFUSED("NNa.", FORMAT, 2, "no list"),
        REFUSED("}Na.", FORMAT, 2, "no list"),
        REFUSED("]NNs.", FORMAT, 3, "no list or dict"),
        REFUSED("}(Nu.", FORMAT, 3, "half"),
        REFUSED("NNb.", FORMAT, 2, "no object"),
        REFUSED("]Nb.", FORMAT, 2, "no object"),
        REFUSED("N)R.", FORMAT, 2, "nothing was executed"),
        REFUSED("ctorch\nSize\nNR.", FORMAT, 13, "nothing was executed"),
        REFUSED("ctorch\nSize\n)R)R.", FORMAT, 15, "nothing was executed"),
        REFUSED("cos\nsystem\n.", FORMAT, 0,
                "names os.system, which is not loaded: nothing was executed"),
        REFUSED("cposix\ngetpid\n.", FORMAT, 0, "names posix.getpid,"),
        REFUSED("\x8C\2os\x8C\6system\x93.", FORMAT, 12, "names os.system,"),
        REFUSED("c__builtin__\neval\n.", FORMAT, 0, "__builtin__.eval"),
        REFUSED("cbuiltins\ngetattr\n.", FORMAT, 0, "builtins.getattr"),
        REFUSED("ctorch\nload\n.", FORMAT, 0, "torch.load"),
        REFUSED("ctorch.hub\nload\n.", FORMAT, 0, "torch.hub.load"),
        REFUSED("ctorchx\nSize\n.", FORMAT, 0, "torchx.Size"),
        REFUSED("cnumpy.testing\nrunstring\n.", FORMAT, 0, "runstring"),
        REFUSED("ca\xFF\nb\x01\n.", FORMAT, 0, "names a?.b?,"),
        REFUSED("c\n\n.", FORMAT, 0, "no name"),
        REFUSED("ctorch\0\nSize\n.", FORMAT, 0, "no name"),
        REFUSED("N\x8C\1a\x93.", FORMAT, 4, "no name"),
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        blob b = blob_of(cases[i].pickle, cases[i].bytes);
        lora__pickle pickle;
        lora__arena arena;
        lora_error error;
        lora_status status = read_pickle(&pickle, &arena, &b, &error);

        if (status != cases[i].status ||
            strstr(error.message, cases[i].message) == NULL ||
            error.offset != AT + cases[i].offset) {
            fail_msg("%s: %d at %llu, \"%s\"", cases[i].message, (int)status,
                     (unsigned long long)error.offset, error.message);
        }
        assert_string_equal(error.subject, "f");
        lora__arena_destroy(&arena);
        free(b.data);
    }
}

/* A pickle cut anywhere is TRUNCATED, where it ends. */
static void test_cut(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof sound / sizeof sound[0]; i++) {
        for (size_t n = 0; n < sound[i].bytes; n++) {
            blob b = blob_of(sound[i].pickle, n);
            lora__pickle pickle;
            lora__arena arena;
            lora_error error;

            assert_int_equal(read_pickle(&pickle, &arena, &b, &error),
                             LORA_ERROR_TRUNCATED);
            assert_int_equal(error.offset, AT + n);
            lora__arena_destroy(&arena);
            free(b.data);
        }
    }
}

/* Lengths beyond the end, and names beyond all measure, cost nothing. */
static void test_lengths(void **state)
{
    static const char *const heads[] = {"X\xFF\xFF\xFF\xFF",
                                        "T\xFF\xFF\xFF\xFF",
                                        "B\xFF\xFF\xFF\x7F",
                                        "\x8B\xFF\xFF\xFF\xFF",
                                        "U\xFF",
                                        "C\xFF",
                                        "\x8A\xFF"};
    bytes name = {NULL, 0, 0};
    lora__pickle pickle;
    lora__arena arena;
    blob b;

    (void)state;
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        b = blob_of(heads[i], strlen(heads[i]));
        assert_int_equal(read_pickle(&pickle, &arena, &b, NULL),
                         LORA_ERROR_TRUNCATED);
        lora__arena_destroy(&arena);
        free(b.data);
    }
    for (int lines = 0; lines < 2; lines++) {
        PUT(&name, "c");
        put(&name, "torch\n", lines == 0 ? 0 : 6);
        for (size_t i = 0; i < 70000; i++) {
            PUT(&name, "A");
        }
        b = take(&name);
        assert_int_equal(read_pickle(&pickle, &arena, &b, NULL),
                         LORA_ERROR_LIMIT);
        lora__arena_destroy(&arena);
        free(b.data);
    }
}

/* Each node is counted: so many tensors, so many nodes. */
static void test_node_limit(void **state)
{
    lora_limits limits = {.struct_size = sizeof limits, .tensor_count = 1};
    heap h;
    lora_context *small = make_context(&h, &limits);
    bytes text = {NULL, 0, 0};
    lora__pickle pickle;
    lora__arena arena;
    lora_error error;
    blob b;

    (void)state;
    for (size_t i = 0; i < 70000; i++) {
        PUT(&text, ")0");
    }
    PUT(&text, "N.");
    b = take(&text);
    lora_error_init(&error, sizeof error);
    lora__arena_init(&arena, small);
    assert_int_equal(
        lora__pickle_read(&pickle, &arena, b.data, b.bytes, 0, "f", &error),
        LORA_ERROR_LIMIT);
    assert_non_null(strstr(error.message, "limit of tensors"));
    lora__arena_destroy(&arena);
    assert_int_equal(read_pickle(&pickle, &arena, &b, NULL), LORA_OK);
    lora__arena_destroy(&arena);
    free(b.data);
    end_context(&h, small);
}

/* Operations in any order, most of them with arguments that fit. */
static void test_fuzz(void **state)
{
    uint64_t seed = 0x9E3779B97F4A7C15u;
    int read = 0;

    (void)state;
    for (int i = 0; i < 40000; i++) {
        bytes text = {NULL, 0, 0};
        size_t pieces = 1 + random_next(&seed) % 24;
        lora__pickle pickle;
        lora__arena arena;
        lora_status status;
        blob b;

        for (size_t n = 0; n < pieces; n++) {
            size_t s = random_next(&seed) % (sizeof sound / sizeof sound[0]);
            static const char operations[] = "(0123NQRbtaesu)]}\x81\x85\x86"
                                             "\x87\x88\x8F\x90\x91\x92\x93"
                                             "\x94";
            unsigned char byte = (unsigned char)random_next(&seed);

            switch (random_next(&seed) % 4) {
            case 0:
                put(&text, sound[s].pickle, sound[s].bytes - 1);
                break;
            case 1:
                put(&text, &byte, 1);
                break;
            default:
                put(&text, operations + byte % (sizeof operations - 1), 1);
                break;
            }
        }
        PUT(&text, ".");
        b = take(&text);
        status = read_pickle(&pickle, &arena, &b, NULL);
        assert_true(status == LORA_OK || is_refusal(status));
        read += status == LORA_OK;
        lora__arena_destroy(&arena);
        free(b.data);
    }
    assert_true(read > 100); /* not all are refused at the first byte */
}

static void test_memory(void **state)
{
    bytes text = {NULL, 0, 0};
    blob b;

    (void)state;
    for (size_t i = 0; i < sizeof sound / sizeof sound[0]; i++) {
        put(&text, sound[i].pickle, sound[i].bytes - 1);
        PUT(&text, "q\0"
                   "0");
    }
    PUT(&text, "Nr\x80\0\0\0"
               "0"); /* the memo grows, and the stack */
    for (size_t i = 0; i < 200; i++) {
        PUT(&text, "(K\1");
    }
    for (size_t i = 0; i < 200; i++) {
        PUT(&text, "t");
    }
    PUT(&text, ".");
    b = take(&text);
    for (size_t n = 0;; n++) {
        lora__pickle pickle;
        lora__arena arena;
        lora_status status;

        memory.countdown = n;
        status = read_pickle(&pickle, &arena, &b, NULL);
        memory.countdown = SIZE_MAX;
        lora__arena_destroy(&arena);
        assert_int_equal(lora_context_memory_live(context), 0);
        if (status == LORA_OK) {
            assert_true(n > 5);
            break;
        }
        assert_int_equal(status, LORA_ERROR_MEMORY);
    }
    free(b.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),  cmocka_unit_test(test_persistent),
        cmocka_unit_test(test_refused), cmocka_unit_test(test_cut),
        cmocka_unit_test(test_lengths), cmocka_unit_test(test_node_limit),
        cmocka_unit_test(test_fuzz),    cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests(tests, begin, end);
}
