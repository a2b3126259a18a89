// The little msgpack that the generator needs: writing maps, strings and numbers; reading them and skipping the rest.
#ifndef MSGPACK_H
#define MSGPACK_H

#include "common.h"

// ---- writing

static inline void write_byte(struct buffer *out, unsigned byte) {
    char written = (char)byte;
    buffer_append(out, &written, 1);
}

static inline void store_big_endian(char *at, uint64_t value, int width) {
    for (int i = width - 1; i >= 0; i--, value >>= 8) at[i] = (char)value;
}

static inline void write_big_endian(struct buffer *out, uint64_t value, int width) {
    store_big_endian(buffer_reserve(out, (size_t)width), value, width);
    out->end += (size_t)width;
}

static inline void write_map(struct buffer *out, unsigned entries) { write_byte(out, 0x80 | entries); }
static inline void write_array(struct buffer *out, unsigned entries) { write_byte(out, 0x90 | entries); }
static inline void write_bool(struct buffer *out, bool value) { write_byte(out, value ? 0xc3 : 0xc2); }

static inline void write_string(struct buffer *out, const char *text) {
    size_t length = strlen(text);
    if (length < 32) {
        write_byte(out, 0xa0 | (unsigned)length);
    } else if (length < 65536) {
        write_byte(out, 0xda);
        write_big_endian(out, length, 2);
    } else {
        write_byte(out, 0xdb);
        write_big_endian(out, length, 4);
    }
    buffer_append(out, text, length);
}

// ---- reading

// A place in a message. `broken` once what was read is no msgpack, or not what was expected; then it stays so.
struct reader {
    const uint8_t *at, *end;
    bool broken;
};

struct string {
    const char *text;
    size_t length;
};

static inline bool string_is(struct string string, const char *text) {
    return string.length == strlen(text) && !memcmp(string.text, text, string.length);
}

// Consumes `count` bytes and returns where they begin, or NULL.
static inline const uint8_t *read_bytes(struct reader *in, size_t count) {
    if (in->broken || (size_t)(in->end - in->at) < count) {
        in->broken = true;
        return NULL;
    }
    in->at += count;
    return in->at - count;
}

static inline uint64_t read_big_endian(struct reader *in, size_t width) {
    const uint8_t *bytes = read_bytes(in, width);
    uint64_t value = 0;
    for (size_t i = 0; bytes && i < width; i++) value = value << 8 | bytes[i];
    return value;
}

static inline uint8_t read_byte(struct reader *in) { return (uint8_t)read_big_endian(in, 1); }

static inline struct string read_string(struct reader *in) {
    uint8_t tag = read_byte(in);
    size_t length = 0;
    if (tag >= 0xa0 && tag <= 0xbf) length = tag & 0x1f;
    else if (tag >= 0xd9 && tag <= 0xdb) length = read_big_endian(in, 1u << (tag - 0xd9));
    else in->broken = true;
    const uint8_t *bytes = read_bytes(in, length);
    return bytes ? (struct string){(const char *)bytes, length} : (struct string){"", 0};
}

static inline uint64_t read_unsigned(struct reader *in) {
    uint8_t tag = read_byte(in);
    if (tag < 0x80) return tag;
    if (tag >= 0xcc && tag <= 0xcf) return read_big_endian(in, 1u << (tag - 0xcc));
    in->broken = true;
    return 0;
}

static inline size_t read_map(struct reader *in) {
    uint8_t tag = read_byte(in);
    if (tag >= 0x80 && tag <= 0x8f) return tag & 0x0f;
    if (tag == 0xde || tag == 0xdf) return read_big_endian(in, tag == 0xde ? 2 : 4);
    in->broken = true;
    return 0;
}

static inline bool next_is_nil(const struct reader *in) { return in->at < in->end && *in->at == 0xc0; }

static inline void skip_value(struct reader *in);

static inline void skip_values(struct reader *in, uint64_t count) {
    while (count-- && !in->broken) skip_value(in);
}

static inline void skip_value(struct reader *in) {
    uint8_t tag = read_byte(in);
    if (tag < 0x80 || tag >= 0xe0) return;                                                 // small integers
    if (tag <= 0x8f) skip_values(in, 2ull * (tag & 0x0f));                                 // small maps
    else if (tag <= 0x9f) skip_values(in, tag & 0x0f);                                     // small arrays
    else if (tag <= 0xbf) read_bytes(in, tag & 0x1f);                                      // short strings
    else if (tag >= 0xc4 && tag <= 0xc6) read_bytes(in, read_big_endian(in, 1u << (tag - 0xc4)));      // binary
    else if (tag >= 0xc7 && tag <= 0xc9) read_bytes(in, 1 + read_big_endian(in, 1u << (tag - 0xc7)));  // extensions
    else if (tag == 0xca || tag == 0xcb) read_bytes(in, tag == 0xca ? 4 : 8);              // floats
    else if (tag >= 0xcc && tag <= 0xd3) read_bytes(in, 1u << (tag & 3));                  // integers
    else if (tag >= 0xd4 && tag <= 0xd8) read_bytes(in, 1 + (1u << (tag - 0xd4)));         // fixed extensions
    else if (tag >= 0xd9 && tag <= 0xdb) read_bytes(in, read_big_endian(in, 1u << (tag - 0xd9)));      // strings
    else if (tag == 0xdc || tag == 0xdd) skip_values(in, read_big_endian(in, tag == 0xdc ? 2 : 4));    // arrays
    else if (tag == 0xde || tag == 0xdf) skip_values(in, 2 * read_big_endian(in, tag == 0xde ? 2 : 4));  // maps
    else if (tag == 0xc1) in->broken = true;  // never used; nil and booleans have no more bytes
}

#endif
