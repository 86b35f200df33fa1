/* Names: what the keys of a file mean, and how a dialect spells a meaning.
 *
 * Reading: lora__names_read() takes all keys of a file at once (some dialects
 * can only be told from the whole) and says for each: the module's name as
 * stored, the role, the dialect, and the canonical target. Writing:
 * lora__names_write() spells (target, role) in a dialect.
 *
 * Canonical targets are "<component>.<dotted diffusers module name>", with
 * the components unet, transformer, prior, text_encoder, text_encoder_2,
 * text_encoder_3: what diffusers calls them. A name no family knows is, less
 * its dialect's prefix, its own canonical name; diffusers' own dotted names
 * keep their component, so such targets are canonical without a family.
 * Only known targets say that two modules change the same weight: flattened
 * unknown ones of two components can be equal.
 *
 * Models as their authors published them may have one weight where diffusers
 * has several: q, k and v in one, as a rule. A module of such a weight has
 * parts, one for each canonical target, with the rows that belong to it. Its
 * own target is the component and the original name of the weight, as in
 * "transformer.double_blocks.0.img_attn.qkv", whatever the dialect; so it can
 * be spelled in every dialect that has the weight whole. A single part means
 * that the weight is one target, but with its rows in another order (halves
 * swapped) or transposed; it is named in the same way. To split a module, spell
 * its parts; to fuse targets, ask which rows they get (lora__spelling.rows).
 *
 * Modules that a file numbers instead of naming them have the number in their
 * name. Where they can be placed, they have targets: of cloneofsimo's files by
 * the order of layers, of Sam_LoRA's as "image_encoder.blocks.0.attn.qkv#q",
 * the rows of q in a weight no family knows.
 */
#ifndef LORA__NAMES_NAMES_H
#define LORA__NAMES_NAMES_H

#include "core/arena.h"
#include "names/role.h"

/* What sort of layer a target is, which tells how many dimensions its factors
 * have in dialects that care. */
typedef enum lora__layer {
    LORA__LAYER_UNKNOWN = 0,
    LORA__LAYER_LINEAR,
    LORA__LAYER_CONV1, /* 1 x 1 */
    LORA__LAYER_CONV,  /* of another kernel */
    LORA__LAYER_CONV3, /* 3 x 3 */
    LORA__LAYER_NORM,
    LORA__LAYER_EMBEDDING,
    LORA__LAYER_PARAMETER /* a tensor of its own, no module's weight */
} lora__layer;

typedef struct lora__dialect lora__dialect; /* a row of the dialect table */
typedef struct lora__family lora__family;   /* a row of the family table */

/* A key going in. */
typedef struct lora__key_in {
    const char *name;
    size_t name_bytes;
    int32_t ndim;
    const int64_t *shape;
} lora__key_in;

/* Some rows of an original weight: the slices one after another, each from row
 * rows * begin / units to rows * end / units. 0 units: all rows. */
#define LORA__MAX_SLICES 2
typedef struct lora__slice {
    uint16_t begin;
    uint16_t end;
} lora__slice;

typedef struct lora__row_set {
    lora__slice slices[LORA__MAX_SLICES];
    uint16_t slice_count;
    uint16_t units;
    int transposed; /* the target is the transpose of the original weight */
} lora__row_set;

/* One target of a module that has several, or one with its rows moved. */
typedef struct lora__part {
    const char *target; /* canonical, a layer of diffusers */
    lora__layer layer;
    lora__row_set rows;
} lora__part;

/* What it means. Strings live in the arena or are static. Unknown keys have no
 * dialect, role UNKNOWN, and "" for both names. A learned token is its own
 * module and target; it has a dialect only in a positional file. */
typedef struct lora__key_out {
    const lora__dialect *dialect; /* NULL: unknown */
    lora__role role;
    const char *module;    /* as stored: what precedes the suffix; "" unknown */
    size_t module_index;   /* the same for all keys of a module, where they have
                            * one; below module_count */
    const char *path;      /* that name, mended where it is broken */
    const char *component; /* "unet", "text_encoder_2", ...; "" not known */
    const char *target;    /* canonical */
    lora__layer layer;
    int known;               /* 1: a family knows the target */
    int original;            /* 1: spelled as the model's authors do */
    int broken;              /* 1: spelled as no program does */
    const lora__part *parts; /* in the arena, shared by a module's keys */
    size_t part_count;       /* 0: the module is the whole target */
} lora__key_out;

#define LORA__MAX_DIALECTS 8
#define LORA__MAX_ALTERNATIVES 6 /* as many have CLIP-L */

/* What the file is. */
typedef struct lora__names {
    lora__key_out *keys; /* one for each key in */
    size_t key_count;
    size_t module_count;                               /* of module_index */
    const lora__dialect *dialects[LORA__MAX_DIALECTS]; /* by frequency */
    size_t dialect_count;
    const lora__family *family; /* best guess, or NULL */
    double confidence;          /* 0 to 1 */
    const lora__family *alternatives[LORA__MAX_ALTERNATIVES];
    size_t alternative_count;
} lora__names;

/* Metadata look-up, so that names/ need not know the container. For the key
 * below it answers with the base that the model card beside the file names. */
#define LORA__NAMES_CARD "model card: base_model"
typedef const char *(*lora__metadata_fn)(const void *user, const char *key);

LORA_PRIVATE lora_status lora__names_read(lora__names *out,
                                          lora__arena *arena,
                                          const lora__key_in *keys,
                                          size_t key_count,
                                          lora__metadata_fn metadata,
                                          const void *metadata_user,
                                          lora_error *error);

/* The same for the keys of a base model itself. Each is a tensor: the role is
 * WEIGHT (bare parameters too), BIAS, SCALE for the number that a weight in F8
 * is times, UNKNOWN for other such helpers. There are no dialects, and a name
 * no family knows is its own target, as it stands. */
LORA_PRIVATE lora_status lora__names_read_base(lora__names *out,
                                               lora__arena *arena,
                                               const lora__key_in *keys,
                                               size_t key_count,
                                               lora__metadata_fn metadata,
                                               const void *metadata_user,
                                               lora_error *error);

/* What is to be spelled. */
typedef struct lora__spelling {
    const lora__family *family; /* may be NULL */
    const char *target;         /* canonical */
    const char *stored;         /* module name as read, or NULL */
    const lora__dialect *stored_dialect;
    const char *key; /* as read, or NULL: where the dialect has the manner of
                      * its suffix, it is kept */
    int known;       /* not looked at: the families are asked */
    lora__role role;
    /* Where to say which rows of the weight that is spelled the target has:
     * 0 units where it has them all. NULL: to spell a weight that is more than
     * the target, or has its rows in another order, is UNSUPPORTED. */
    lora__row_set *rows;
} lora__spelling;

/* Append a key to a buffer. With `stored` read in the same dialect the name is
 * kept as it was; else it is formed from the target, which may also be that of
 * a module with parts. UNSUPPORTED where the dialect has no spelling for the
 * role or the target, or has several names for it; KEY where the name cannot
 * be respelled because no family knows it, or several, each with a name of its
 * own. Nothing is appended on these failures. */
struct lora__buffer;
LORA_PRIVATE lora_status lora__names_write(struct lora__buffer *out,
                                           const lora__dialect *dialect,
                                           const lora__spelling *spelling,
                                           lora_error *error);

/* The same for the name of the module alone; its role is for messages. */
LORA_PRIVATE lora_status
lora__names_write_module(struct lora__buffer *out,
                         const lora__dialect *dialect,
                         const lora__spelling *spelling,
                         lora_error *error);

/* The target that a target no family knows, read in the dialect `from`, has
 * once it is written in this one: less its component, where the names do not
 * say it. It is the end of the given string. */
LORA_PRIVATE const char *lora__names_read_back(const lora__dialect *dialect,
                                               const lora__dialect *from,
                                               const char *target);

/* 1 if the dialect has a place for the role. */
LORA_PRIVATE int lora__dialect_has_role(const lora__dialect *dialect,
                                        lora__role role);

/* 1 if the dialect keeps alpha in lora_adapter_metadata, not in tensors. */
LORA_PRIVATE int lora__dialect_alpha_in_metadata(const lora__dialect *dialect);

/* The dialect that adapters are published in, for one that is a dump of a
 * program's state; others are their own. */
LORA_PRIVATE const lora__dialect *
lora__dialect_published(const lora__dialect *dialect);

/* The dialect that pairs and differences are written in which others became:
 * kohya's OFT has names for its blocks alone. */
LORA_PRIVATE const lora__dialect *
lora__dialect_of_pairs(const lora__dialect *dialect);

LORA_PRIVATE const char *lora__dialect_id(const lora__dialect *dialect);
LORA_PRIVATE const lora__dialect *lora__dialect_find(const char *id);
LORA_PRIVATE const char *lora__role_name(lora__role role);

/* 1 for a key that is a magnitude of DoRA as PEFT spells it: its rules are not
 * those of others. */
LORA_PRIVATE int lora__name_has_peft_magnitude(const char *key, size_t bytes);

/* 1 for a dialect that writes them so. */
LORA_PRIVATE int lora__dialect_has_peft_magnitude(const lora__dialect *dialect);

/* The number behind a key whose tensor is one of several of its role, each for
 * some rows, as of ".oft_blocks.2"; -1: it has none, INT32_MAX: it is none that
 * a list has. */
LORA_PRIVATE int32_t lora__name_piece(const char *key, size_t bytes);

LORA_PRIVATE const char *lora__family_id(const lora__family *family);
LORA_PRIVATE const lora__family *lora__family_find(const char *id);
LORA_PRIVATE size_t lora__family_count(void);
LORA_PRIVATE const lora__family *lora__family_at(size_t index);

/* Metadata that tells other programs the base; NULL where there is none. */
LORA_PRIVATE const char *lora__family_ss_version(const lora__family *family);
LORA_PRIVATE const char *lora__family_architecture(const lora__family *family);

/* Every target of a family, in the order of its templates: canonical name
 * into `out` (appended), its layer and whether trainers adapt it by default.
 * 0 when index is past the end. */
typedef struct lora__target {
    lora__layer layer;
    int is_default;
} lora__target;

LORA_PRIVATE size_t lora__family_target_count(const lora__family *family);
LORA_PRIVATE int lora__family_target_at(struct lora__buffer *out,
                                        lora__target *out_target,
                                        const lora__family *family,
                                        size_t index);

/* The layer of a canonical target; LORA__LAYER_UNKNOWN if the family does not
 * have it. */
LORA_PRIVATE lora__layer lora__family_layer(const lora__family *family,
                                            const char *target);

/* 1 and the size of the weight of a canonical target, a linear layer, where
 * the family tells it. NULL has none. */
LORA_PRIVATE int lora__family_shape(int64_t out_shape[2],
                                    const lora__family *family,
                                    const char *target);

/* 1 if the layer of a canonical target is known to have no bias. */
LORA_PRIVATE int lora__family_lacks_bias(const lora__family *family,
                                         const char *target);

/* The same of whichever families the file may be of. */
LORA_PRIVATE int lora__names_lack_bias(const lora__names *names,
                                       const char *target);

#endif
