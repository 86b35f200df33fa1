/* Plans under hardship: a hundred changes at random, the host's threads in any
 * order, memory that runs out at every place, cancelling at every moment. In
 * the end the weights are always bit for bit what the adapters that are in them
 * make of the originals, and without adapters those.
 */
#ifdef _WIN32

/* The threads of this test are POSIX threads. */
int main(void)
{
    return 77;
}

#else

#include "api/folder.h"

#include "api/plans.h"

#include <pthread.h>
#include <stdatomic.h>

static lora_context *context;
static plan_host host;

static uint32_t draw(uint32_t *seed, uint32_t below)
{
    *seed = *seed * 1664525u + 1013904223u;
    return (*seed >> 8) % below;
}

/* Copies of all weights. */
typedef struct snapshot {
    unsigned char *weights[TENSORS];
} snapshot;

static snapshot snapshot_take(const plan_host *from)
{
    snapshot copy;

    for (size_t t = 0; t < TENSORS; t++) {
        copy.weights[t] = malloc(plan_bytes(t));
        assert_non_null(copy.weights[t]);
        memcpy(copy.weights[t], from->weights[t], plan_bytes(t));
    }
    return copy;
}

static int
snapshot_equals(const snapshot *s, const plan_host *as, size_t tensor)
{
    return memcmp(s->weights[tensor], as->weights[tensor],
                  plan_bytes(tensor)) == 0;
}

static void snapshot_assert(const snapshot *s, const plan_host *as)
{
    for (size_t t = 0; t < TENSORS; t++) {
        if (!snapshot_equals(s, as, t)) {
            fail_msg("tensor %d differs", (int)t);
        }
    }
}

static void snapshot_free(snapshot *s)
{
    for (size_t t = 0; t < TENSORS; t++) {
        free(s->weights[t]);
    }
}

static lora_plan *small_blocks(const plan_host *of)
{
    lora_plan_options options;

    lora_plan_options_init(&options, sizeof options);
    options.block_bytes = 1;
    return plan_of(of, &options);
}

/* ---- changes at random ------------------------------------------------- */

typedef struct cycle {
    uint64_t ids[8];
    size_t bindings[8];
    lora_strength strengths[8];
    size_t count;
} cycle;

static lora_strength some_strength(uint32_t *seed)
{
    lora_strength strength;

    strength.model = (double)draw(seed, 9) / 4.0 - 1.0;
    strength.text_encoder = strength.model;
    return strength;
}

static void cycle_add(cycle *c, lora_plan *plan, uint32_t *seed)
{
    size_t at = c->count++;

    c->bindings[at] = draw(seed, 3);
    c->strengths[at] = some_strength(seed);
    assert_int_equal(lora_plan_add(&c->ids[at], plan,
                                   host.bindings[c->bindings[at]],
                                   &c->strengths[at], NULL),
                     LORA_OK);
}

static void cycle_change(cycle *c, lora_plan *plan, uint32_t *seed)
{
    size_t at = draw(seed, (uint32_t)c->count);

    switch (draw(seed, 4)) {
    case 0:
        assert_int_equal(lora_plan_remove(plan, c->ids[at], NULL), LORA_OK);
        c->count--;
        for (size_t i = at; i < c->count; i++) {
            c->ids[i] = c->ids[i + 1];
            c->bindings[i] = c->bindings[i + 1];
            c->strengths[i] = c->strengths[i + 1];
        }
        break;
    case 1:
        c->bindings[at] = draw(seed, 3);
        c->strengths[at] = some_strength(seed);
        assert_int_equal(lora_plan_replace(plan, c->ids[at],
                                           host.bindings[c->bindings[at]],
                                           &c->strengths[at], NULL),
                         LORA_OK);
        break;
    default:
        c->strengths[at] = some_strength(seed);
        assert_int_equal(
            lora_plan_set_strength(plan, c->ids[at], &c->strengths[at], NULL),
            LORA_OK);
    }
}

/* What a plan that never had others makes of the originals. */
static snapshot cycle_afresh(const cycle *c)
{
    lora_plan *plan;
    snapshot now = snapshot_take(&host);
    snapshot out;

    plan_host_reset(&host);
    plan = plan_of(&host, NULL);
    for (size_t i = 0; i < c->count; i++) {
        uint64_t id;
        assert_int_equal(lora_plan_add(&id, plan, host.bindings[c->bindings[i]],
                                       &c->strengths[i], NULL),
                         LORA_OK);
    }
    plan_make(plan);
    lora_plan_destroy(plan);
    out = snapshot_take(&host);
    for (size_t t = 0; t < TENSORS; t++) {
        memcpy(host.weights[t], now.weights[t], plan_bytes(t));
    }
    snapshot_free(&now);
    return out;
}

static void test_cycles(void **state)
{
    lora_plan *plan = small_blocks(&host);
    cycle c;
    uint32_t seed = 5;

    (void)state;
    memset(&c, 0, sizeof c);
    for (int i = 0; i < 100; i++) {
        if (c.count == 0 || (c.count < 5 && draw(&seed, 3) == 0)) {
            cycle_add(&c, plan, &seed);
        } else {
            cycle_change(&c, plan, &seed);
        }
        if (draw(&seed, 4) != 0) {
            plan_make(plan);
        }
        if (i % 20 == 19) {
            snapshot afresh = cycle_afresh(&c);
            plan_make(plan);
            snapshot_assert(&afresh, &host);
            snapshot_free(&afresh);
        }
    }
    while (c.count > 0) {
        assert_int_equal(lora_plan_remove(plan, c.ids[--c.count], NULL),
                         LORA_OK);
    }
    plan_make(plan);
    plan_assert_before(&host);
    assert_int_equal(lora_plan_saved_bytes(plan), 0);
    lora_plan_destroy(plan);
}

/* ---- nothing is kept ---------------------------------------------------- */

static lora_status
read_tall(void *user, size_t tensor, size_t first, size_t count, void *out)
{
    size_t bytes = plan_row_bytes(tensor);

    (void)user;
    memcpy(out, host.before[tensor] + first * bytes, count * bytes);
    return LORA_OK;
}

/* The checkpoint that the weights came from; the tall one comes from the host.
 * `brain` is the type that one of them has there. */
static lora_plan *unkept(const char *brain)
{
    static image im;
    lora_plan_options options;
    lora_plan_memory memory;
    lora_plan *plan;

    image_begin(&im, NULL);
    image_raw(&im, plan_tensors[DOUBLE].name, "F64", "6,5", host.before[DOUBLE],
              plan_bytes(DOUBLE));
    image_raw(&im, plan_tensors[KERNEL].name, "F32", "4,3,2,2",
              host.before[KERNEL], plan_bytes(KERNEL));
    image_raw(&im, plan_tensors[BIAS].name, "F32", "700", host.before[BIAS],
              plan_bytes(BIAS));
    image_raw(&im, plan_tensors[BRAIN].name, brain, "9,4", host.before[BRAIN],
              plan_bytes(BRAIN));
    image_raw(&im, plan_tensors[EIGHTH].name, "F8_E4M3", "6,5",
              host.before[EIGHTH], plan_bytes(EIGHTH));
    image_end(&im);
    folder_put("base.safetensors", im.file, im.bytes);
    image_free(&im);
    lora_plan_options_init(&options, sizeof options);
    options.flags = LORA_PLAN_SAVE_NONE;
    options.block_bytes = 1;
    assert_int_equal(lora_model_open(&options.originals, context,
                                     in_folder("base.safetensors"), NULL, NULL),
                     LORA_OK);
    plan = plan_of(&host, &options);
    lora_model_destroy(options.originals); /* the plan keeps it */
    lora_plan_memory_init(&memory, sizeof memory);
    memory.data = host.weights[TALL];
    memory.original = read_tall;
    assert_int_equal(lora_plan_set_memory(plan, TALL, &memory, NULL), LORA_OK);
    return plan;
}

static void test_unkept(void **state)
{
    lora_plan *plan = unkept("BF16");
    uint32_t seed = 77;
    cycle c;

    (void)state;
    memset(&c, 0, sizeof c);
    for (int i = 0; i < 20; i++) {
        if (c.count < 3) {
            cycle_add(&c, plan, &seed);
        } else {
            cycle_change(&c, plan, &seed);
        }
        plan_make(plan);
        if (i % 5 == 4) {
            snapshot afresh = cycle_afresh(&c);
            snapshot_assert(&afresh, &host);
            snapshot_free(&afresh);
        }
        assert_int_equal(lora_plan_saved_bytes(plan), 0);
    }
    while (c.count > 0) {
        assert_int_equal(lora_plan_remove(plan, c.ids[--c.count], NULL),
                         LORA_OK);
    }
    plan_make(plan);
    plan_assert_before(&host);
    lora_plan_destroy(plan);
    assert_int_equal(folder_count(1), 1);
    plan = unkept("F16"); /* other bits: of no use */
    (void)plan_put(plan, host.bindings[0], 1.0);
    assert_int_equal(lora_plan_run(plan, NULL), LORA_ERROR_LIMIT);
    plan_assert_before(&host);
    lora_plan_destroy(plan);
    assert_int_equal(folder_count(1), 1);
}

/* ---- the host's threads ------------------------------------------------ */

typedef struct crowd {
    lora_plan *plan;
    const size_t *order;
    size_t count;
    atomic_size_t next;
    atomic_size_t failed;
} crowd;

static void *crowd_work(void *arg)
{
    crowd *c = arg;
    size_t bytes = lora_plan_scratch_bytes(c->plan);
    void *scratch = malloc(bytes);

    for (size_t i;
         scratch != NULL && (i = atomic_fetch_add(&c->next, 1)) < c->count;) {
        if (lora_plan_run_job(c->plan, c->order[i], scratch, NULL) != LORA_OK) {
            atomic_fetch_add(&c->failed, 1);
        }
    }
    free(scratch);
    return NULL;
}

static void crowd_run(lora_plan *plan, uint32_t *seed)
{
    pthread_t threads[4];
    size_t order[64];
    crowd c;

    memset(&c, 0, sizeof c);
    c.plan = plan;
    c.order = order;
    assert_int_equal(lora_plan_job_count(&c.count, plan, NULL), LORA_OK);
    assert_true(c.count > 3 && c.count <= COUNT(order));
    for (size_t i = 0; i < c.count; i++) {
        size_t other = draw(seed, (uint32_t)i + 1);
        order[i] = order[other];
        order[other] = i;
    }
    for (size_t i = 0; i < COUNT(threads); i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, crowd_work, &c), 0);
    }
    for (size_t i = 0; i < COUNT(threads); i++) {
        pthread_join(threads[i], NULL);
    }
    assert_int_equal(c.failed, 0);
    assert_int_equal(lora_plan_diff(NULL, 0, &c.count, plan, NULL), LORA_OK);
    assert_int_equal(c.count, 0);
}

static void test_threads(void **state)
{
    lora_plan *plan = plan_of(&host, NULL);
    uint64_t ids[3];
    uint32_t seed = 1;
    snapshot alone;

    (void)state;
    for (size_t i = 0; i < 3; i++) {
        ids[i] = plan_put(plan, host.bindings[i], 0.75 - (double)i);
    }
    plan_make(plan);
    alone = snapshot_take(&host);
    lora_plan_destroy(plan);
    plan_host_reset(&host);
    for (int round = 0; round < 8; round++) {
        plan = small_blocks(&host);
        for (size_t i = 0; i < 3; i++) {
            ids[i] = plan_put(plan, host.bindings[i], 0.75 - (double)i);
        }
        crowd_run(plan, &seed);
        snapshot_assert(&alone, &host);
        for (size_t i = 0; i < 3; i++) {
            assert_int_equal(lora_plan_remove(plan, ids[i], NULL), LORA_OK);
        }
        crowd_run(plan, &seed);
        plan_assert_before(&host);
        lora_plan_destroy(plan);
    }
    snapshot_free(&alone);
}

/* ---- memory that runs out ---------------------------------------------- */

/* All that a plan does; *out_made is 1 once its weights are complete. */
static lora_status do_all(lora_plan **plan, int *out_made, lora_error *error)
{
    static float up[700 * 8];
    static float down[8 * 1000];
    lora_plan_factors_info info = {.struct_size = sizeof info};
    lora_plan_factors_options options;
    lora_status status = LORA_OK;

    if (*plan == NULL) {
        *plan = JUNK(lora_plan);
        status = lora_plan_create(plan, host.model, NULL, error);
        assert_true((status == LORA_OK) == (*plan != NULL));
        if (status != LORA_OK) {
            return status;
        }
        for (size_t t = 0; t < TENSORS; t++) {
            lora_plan_memory memory;
            lora_plan_memory_init(&memory, sizeof memory);
            memory.data = host.weights[t];
            assert_int_equal(lora_plan_set_memory(*plan, t, &memory, NULL),
                             LORA_OK);
        }
    }
    for (uint64_t id = 1; status == LORA_OK && id <= 3; id++) {
        uint64_t made = 77;
        if (lora_plan_set_strength(*plan, id, NULL, NULL) == LORA_OK) {
            continue;
        }
        status =
            lora_plan_add(&made, *plan, host.bindings[id - 1], NULL, error);
        assert_int_equal(made, status == LORA_OK ? id : 77);
    }
    if (status == LORA_OK) {
        status = lora_plan_run(*plan, error);
        *out_made |= status == LORA_OK;
    }
    lora_plan_factors_options_init(&options, sizeof options);
    options.rank = 2;
    if (status == LORA_OK) {
        status = lora_plan_factors(&info, up, sizeof up, down, sizeof down,
                                   NULL, *plan, DOUBLE, NULL, error);
        /* GLoRA is in it: it has none. */
        assert_int_equal(status, LORA_ERROR_UNSUPPORTED);
        status = lora_plan_factors(&info, up, sizeof up, down, sizeof down,
                                   NULL, *plan, KERNEL, &options, error);
    }
    return status;
}

/* The host and its bindings, on a heap that can fail. */
static void test_memory(void **state)
{
    snapshot good;
    size_t failures = 0;

    (void)state;
    plan_host_end(&host);
    for (int lasting = 0; lasting < 2; lasting++) {
        for (size_t n = 0;; n++) {
            heap h;
            lora_context *frail = heap_context(&h, NULL);
            lora_plan *plan = NULL;
            lora_error error;
            lora_status status;
            int made = 0;

            plan_host_begin(&host, frail);
            error_dirty(&error);
            atomic_store(&h.lasting, lasting);
            atomic_store(&h.fail_at, atomic_load(&h.calls) + n);
            status = do_all(&plan, &made, &error);
            atomic_store(&h.fail_at, SIZE_MAX);
            if (status != LORA_OK) {
                failures++;
                assert_error(&error, status, LORA_ERROR_MEMORY, ANY_OFFSET,
                             NULL);
                assert_int_equal(do_all(&plan, &made, NULL), LORA_OK);
            }
            if (failures == 1 && lasting == 0 && n == 0) {
                good = snapshot_take(&host);
            }
            snapshot_assert(&good, &host);
            for (uint64_t id = 1; id <= 3; id++) {
                assert_int_equal(lora_plan_remove(plan, id, NULL), LORA_OK);
            }
            plan_make(plan);
            plan_assert_before(&host);
            lora_plan_destroy(plan);
            plan_host_end(&host);
            heap_end(&h, frail);
            if (status == LORA_OK) {
                break;
            }
        }
    }
    assert_true(failures > 20);
    snapshot_free(&good);
    plan_host_begin(&host, context);
}

/* ---- cancelling -------------------------------------------------------- */

static int32_t
cancel_at(void *user, const char *stage, uint64_t done, uint64_t total)
{
    size_t *left = user;

    (void)stage;
    (void)done;
    (void)total;
    return (*left)-- == 0;
}

static void test_cancel(void **state)
{
    lora_context_options options;
    size_t left = SIZE_MAX;
    size_t cancelled = 0;
    snapshot good = {{NULL}};
    plan_host mine;

    (void)state;
    lora_context_options_init(&options, sizeof options);
    options.progress = cancel_at;
    options.progress_user = &left;
    for (size_t n = 0;; n++) {
        heap h;
        lora_context *moody = heap_context(&h, &options);
        lora_plan *plan;
        lora_error error;
        lora_status status;
        uint64_t ids[2];

        left = SIZE_MAX;
        plan_host_begin(&mine, moody);
        plan = small_blocks(&mine);
        ids[0] = plan_put(plan, mine.bindings[0], 0.5);
        ids[1] = plan_put(plan, mine.bindings[1], 1.0);
        if (good.weights[0] == NULL) {
            plan_make(plan);
            good = snapshot_take(&mine);
        } else {
            size_t todo;
            left = n - 1;
            error_dirty(&error);
            status = lora_plan_run(plan, &error);
            left = SIZE_MAX;
            assert_int_equal(lora_plan_diff(NULL, 0, &todo, plan, NULL),
                             LORA_OK);
            if (status == LORA_OK) {
                assert_int_equal(todo, 0);
                snapshot_assert(&good, &mine);
                n = SIZE_MAX - 1;
            } else {
                assert_int_equal(status, LORA_ERROR_CANCELLED);
                cancelled++;
            }
        }
        if (n % 2 == 0) {
            plan_make(plan);
            snapshot_assert(&good, &mine);
        }
        assert_int_equal(lora_plan_remove(plan, ids[0], NULL), LORA_OK);
        assert_int_equal(lora_plan_remove(plan, ids[1], NULL), LORA_OK);
        plan_make(plan);
        plan_assert_before(&mine);
        lora_plan_destroy(plan);
        plan_host_end(&mine);
        heap_end(&h, moody);
        if (n == SIZE_MAX - 1) {
            break;
        }
    }
    assert_true(cancelled > 4);
    snapshot_free(&good);
}

static int set_up(void **state)
{
    context = plain_context();
    plan_host_begin(&host, context);
    return folder_make(state);
}

static int tear_down(void **state)
{
    plan_host_end(&host);
    assert_int_equal(lora_context_memory_live(context), 0);
    lora_context_destroy(context);
    return folder_remove(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cycles),  cmocka_unit_test(test_unkept),
        cmocka_unit_test(test_threads), cmocka_unit_test(test_memory),
        cmocka_unit_test(test_cancel),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}

#endif
