// What both programs need: the clock, growing buffers, samples with percentiles.
#ifndef COMMON_H
#define COMMON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NS_PER_S 1000000000ull
#define NS_PER_MS 1000000ull
#define NS_PER_US 1000ull

// Every content delta of the upstream is "@<20 digits of CLOCK_MONOTONIC nanoseconds> ": whoever reads it on the same
// machine knows how long it was under way.
#define STAMP_DIGITS 20
#define STAMP_LENGTH (1 + STAMP_DIGITS + 1)

static inline uint64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static inline void die(const char *what) {
    perror(what);
    exit(2);
}

static inline void *checked(void *memory) {
    if (!memory) die("out of memory");
    return memory;
}

// Bytes that are appended at the end and consumed from the start.
struct buffer {
    char *bytes;
    size_t start, end, capacity;
};

static inline size_t buffer_length(const struct buffer *buffer) {
    return buffer->end - buffer->start;
}

static inline char *buffer_data(const struct buffer *buffer) {
    return buffer->bytes + buffer->start;
}

// Makes room for `room` more bytes and returns where they go.
static inline char *buffer_reserve(struct buffer *buffer, size_t room) {
    if (buffer->start == buffer->end) buffer->start = buffer->end = 0;
    if (buffer->end + room > buffer->capacity && buffer->start > 0) {
        memmove(buffer->bytes, buffer_data(buffer), buffer_length(buffer));
        buffer->end -= buffer->start;
        buffer->start = 0;
    }
    if (buffer->end + room > buffer->capacity) {
        buffer->capacity = (buffer->end + room) * 2;
        buffer->bytes = checked(realloc(buffer->bytes, buffer->capacity));
    }
    return buffer->bytes + buffer->end;
}

static inline void buffer_append(struct buffer *buffer, const void *bytes, size_t length) {
    memcpy(buffer_reserve(buffer, length), bytes, length);
    buffer->end += length;
}

static inline void buffer_consume(struct buffer *buffer, size_t length) {
    buffer->start += length;
}

static inline void buffer_free(struct buffer *buffer) {
    free(buffer->bytes);
    *buffer = (struct buffer){0};
}

// Durations in nanoseconds, kept one by one so that percentiles are exact.
struct samples {
    uint64_t *values;
    size_t count, capacity;
};

static inline void samples_add(struct samples *samples, uint64_t value) {
    if (samples->count == samples->capacity) {
        samples->capacity = samples->capacity ? samples->capacity * 2 : 65536;
        samples->values = checked(realloc(samples->values, samples->capacity * sizeof *samples->values));
    }
    samples->values[samples->count++] = value;
}

static inline int compare_values(const void *left, const void *right) {
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return (a > b) - (a < b);
}

static inline double sample_us(const struct samples *sorted, double quantile) {
    return (double)sorted->values[(size_t)(quantile * (double)(sorted->count - 1) + 0.5)] / 1000.0;
}

// Prints `"name":{"p50":…,"p99":…,"max":…}` in microseconds, or null without samples.
static inline void samples_print(struct samples *samples, const char *name) {
    if (!samples->count) {
        printf("\"%s\":null", name);
        return;
    }
    qsort(samples->values, samples->count, sizeof *samples->values, compare_values);
    printf("\"%s\":{\"p50\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name, sample_us(samples, 0.5), sample_us(samples, 0.99),
           sample_us(samples, 1.0));
}

#endif
