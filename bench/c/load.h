// The generator's parts: load.c drives connections and calls and measures; a speaker knows how one side talks.
#ifndef LOAD_H
#define LOAD_H

#include "common.h"

struct connection;

// One slot for calls in flight; it is used again, under a new id, as soon as its call is answered.
struct call {
    struct connection *connection;
    uint32_t id;
    bool in_flight;
    uint64_t sent_ns, first_text_ns;
    uint64_t starts_at_ns;            // the first call of a slot may start later (a ramp)
    size_t text_length, chunks;
    uint64_t text_hash;
    uint64_t stamp;                   // digits of a stamp read so far
    int stamp_digits;                 // how many of them are still to come
};

struct connection {
    int fd;                           // -1 once it is lost
    struct buffer in, out;
    bool waits_for_room;              // EPOLLOUT is armed
    struct call *calls;               // its slots: `options.in_flight` of them
    size_t http_left;                 // the HTTP speaker: where it is in an answer, see http.c
    int http_state, http_status;
};

struct options {
    const char *socket_path;          // the daemon's socket, or NULL:
    int port;                         // the upstream's port
    const char *model;
    bool streamed;
    int expected_chunks;              // stamps that each stream must bring
    size_t prompt_bytes;
    int users;                        // 0: the peer's own user; else so many names below it
    int connections, in_flight;
    double warm_s, measure_s, timeout_s;
    long total;                       // so many calls instead of a time, or -1
    double ramp_ms;                   // the first calls start spread over this time
};

struct results {
    unsigned long issued, answered, measured;
    unsigned long faults;             // the daemon said no, or the upstream a status other than 200
    unsigned long stray;              // messages for an id that has no call in flight: unknown, or answered twice
    unsigned long malformed;          // messages that can't be read, or lack something
    unsigned long wrong_text;         // the items' texts together are not the answer's text
    unsigned long wrong_chunks;       // a stream with more or fewer chunks than the upstream sent
    unsigned long lost;               // calls whose connection closed
    unsigned long unanswered;         // calls still in flight when time was up
    unsigned long unpriced;           // answers without a cost
    uint64_t cost_nano_usd;           // of all answers, as the daemon said
    unsigned long chunks;
    int in_flight, in_flight_max;
    struct samples latency, first_token, chunk_delay;
    char first_fault[300];
};

struct speaker {
    int (*connect)(void);                                                    // a connection ready for calls
    void (*write_call)(struct buffer *out, const struct call *call);         // a call, appended to what is sent
    void (*read_answers)(struct connection *connection, uint64_t now);       // consumes what is complete of the input
};

extern const struct speaker quorumd_speaker, http_speaker;
extern struct options options;
extern struct results results;

// What a speaker says about what it read.
struct call *call_by_id(struct connection *connection, uint64_t id);  // NULL if no such call is in flight
void call_text(struct call *call, const char *text, size_t length, uint64_t now);
void call_answered(struct call *call, uint64_t now);
void call_failed(struct call *call, const char *why);

uint64_t hash_text(uint64_t hash, const char *text, size_t length);
#define EMPTY_TEXT_HASH 14695981039346656037ull

const char *system_prompt(void);
const char *user_prompt(void);

#endif
