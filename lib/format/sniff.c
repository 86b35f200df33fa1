/* Naming files that are not models, or not in a container this version reads,
 * so that the message says what happened rather than "header too large".
 */
#include "format/container.h"

#include "core/text.h"

#include <string.h>

#define SNIFF_UNPACK ": unpack it and open the model inside"
#define SNIFF_PICKLE                                                           \
    "a bare Python pickle, not a checkpoint: save its tensors with "           \
    "torch.save, or as safetensors"
#define SNIFF_TORCH_TAR                                                        \
    "a PyTorch checkpoint of the oldest form, from before 0.1.10: load it "    \
    "with torch and save it again"

typedef struct sniff_magic {
    size_t offset;
    size_t bytes;
    const char *magic;
    const char *what;
} sniff_magic;

/* First match wins. */
static const sniff_magic sniff_magics[] = {
    {0, 4, "PK\x05\x06", "an empty zip archive"},
    {0, 2, "\x80\x02", SNIFF_PICKLE},
    {0, 2, "\x80\x03", SNIFF_PICKLE},
    {0, 2, "\x80\x04", SNIFF_PICKLE},
    {0, 2, "\x80\x05", SNIFF_PICKLE},
    {257, 5, "ustar", "a tar archive" SNIFF_UNPACK},
    {0, 4, "algg",
     "an adapter as llama.cpp had it before GGUF: convert it anew"},
    {0, 8, "\x89HDF\r\n\x1A\n", "an HDF5 file: convert it to safetensors"},
    {0, 6, "\x93NUMPY", "a NumPy array: convert it to safetensors"},
    {0, 2, "\x1F\x8B", "a gzip archive" SNIFF_UNPACK},
    {0, 3, "BZh", "a bzip2 archive" SNIFF_UNPACK},
    {0, 6,
     "\xFD"
     "7zXZ\0",
     "an xz archive" SNIFF_UNPACK},
    {0, 4, "\x28\xB5\x2F\xFD", "a zstd archive" SNIFF_UNPACK},
    {0, 6, "7z\xBC\xAF\x27\x1C", "a 7z archive" SNIFF_UNPACK},
    {0, 4, "Rar!", "a RAR archive" SNIFF_UNPACK},
    {0, 5, "%PDF-", "a PDF document, not a model"},
    {0, 4, "\x89PNG", "a PNG image, not a model"},
    {0, 3, "\xFF\xD8\xFF", "a JPEG image, not a model"},
    {0, 4, "GIF8", "a GIF image, not a model"},
    {8, 4, "WEBP", "a WebP image, not a model"},
    {0, 4,
     "\x7F"
     "ELF",
     "a program, not a model"},
    {0, 22, "version https://git-lf",
     "a Git LFS pointer, not the file: run git lfs pull"},
};

/* 1 if the first member of a tar archive is one of those torch wrote. */
static int sniff_is_torch_tar(const char *text)
{
    static const char *const members[] = {"sys_info", "pickle", "tensors",
                                          "storages"};

    for (size_t i = 0; i < LORA__COUNT(members); i++) {
        if (strcmp(text, members[i]) == 0) {
            return 1;
        }
    }
    return 0;
}

/* 1 if the bytes, which may be cut anywhere, are text: UTF-8 with no controls
 * but white space. */
static int sniff_is_text(const char *text, size_t bytes)
{
    size_t cut = 0;

    for (size_t i = 0; i < bytes; i++) {
        unsigned char c = (unsigned char)text[i];
        if (c == 0x7F || (c < 0x20 && (c < 0x09 || c > 0x0D))) {
            return 0;
        }
    }
    while (cut < 3 && cut < bytes && !lora__text_is_utf8(text, bytes - cut)) {
        cut++;
    }
    return lora__text_is_utf8(text, bytes - cut);
}

/* 1 if the text begins with `word`, given in lower case, in any case. */
static int sniff_begins(const char *text, size_t bytes, const char *word)
{
    for (size_t i = 0; word[i] != '\0'; i++) {
        char c = i < bytes ? text[i] : '\0';
        if ((c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c) != word[i]) {
            return 0;
        }
    }
    return 1;
}

static const char *sniff_text(const char *text, size_t bytes)
{
    static const char *const pages[] = {"<!doctype html", "<html",   "<head",
                                        "<body",          "<script", "<!--"};

    if (bytes >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0) {
        text += 3;
        bytes -= 3;
    }
    while (bytes > 0 && ((*text >= 0x09 && *text <= 0x0D) || *text == ' ')) {
        text++;
        bytes--;
    }
    for (size_t i = 0; i < LORA__COUNT(pages); i++) {
        if (sniff_begins(text, bytes, pages[i])) {
            return "an HTML page, not a model: download the file itself";
        }
    }
    if (sniff_begins(text, bytes, "<?xml") || sniff_begins(text, bytes, "<")) {
        return "an XML document, not a model: download the file itself";
    }
    if (bytes > 0 && (*text == '{' || *text == '[')) {
        return "JSON text, not a model";
    }
    return "a text file, not a model";
}

LORA_PRIVATE const char *lora__sniff(const unsigned char *head, size_t bytes)
{
    const char *text = (const char *)head;

    for (size_t i = 0; i < LORA__COUNT(sniff_magics); i++) {
        const sniff_magic *m = &sniff_magics[i];
        if (bytes >= m->offset + m->bytes &&
            memcmp(text + m->offset, m->magic, m->bytes) == 0) {
            return m->offset == 257 && sniff_is_torch_tar(text)
                       ? SNIFF_TORCH_TAR
                       : m->what;
        }
    }
    return bytes >= 8 && sniff_is_text(text, bytes) ? sniff_text(text, bytes)
                                                    : NULL;
}
