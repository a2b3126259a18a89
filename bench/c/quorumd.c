// Speaks quorumd's wire: frames of 4 bytes of big-endian length and one msgpack map, over its Unix socket.
#define _GNU_SOURCE
#include "load.h"
#include "msgpack.h"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum { LENGTH_BYTES = 4, MAX_USERS = 10000 };

// ---- hello

static size_t frame_begin(struct buffer *out) {
    size_t start = buffer_length(out);
    write_big_endian(out, 0, LENGTH_BYTES);
    return start;
}

static void frame_end(struct buffer *out, size_t start) {
    store_big_endian(buffer_data(out) + start, buffer_length(out) - start - LENGTH_BYTES, LENGTH_BYTES);
}

static void write_hello(struct buffer *out) {
    size_t start = frame_begin(out);
    write_map(out, 3);
    write_string(out, "t");
    write_string(out, "hello");
    write_string(out, "protocol");
    write_byte(out, 1);
    write_string(out, "app");
    write_string(out, "bench");
    frame_end(out, start);
}

static void read_exactly(int fd, void *bytes, size_t length) {
    if (recv(fd, bytes, length, MSG_WAITALL) != (ssize_t)length) die("the daemon closed before its welcome");
}

static void read_welcome(int fd) {
    uint8_t message[65536];
    read_exactly(fd, message, LENGTH_BYTES);
    struct reader prefix = {message, message + LENGTH_BYTES, false};
    size_t length = read_big_endian(&prefix, LENGTH_BYTES);
    if (length > sizeof message) die("the daemon's first frame is no welcome");
    read_exactly(fd, message, length);
    if (!memmem(message, length, "\xa1t\xa7welcome", 10)) die("the daemon's first frame is no welcome");
}

static int connect_to_daemon(void) {
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", options.socket_path);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect to the daemon");
    struct buffer hello = {0};
    write_hello(&hello);
    if (send(fd, buffer_data(&hello), buffer_length(&hello), MSG_NOSIGNAL) < 0) die("hello");
    buffer_free(&hello);
    read_welcome(fd);
    return fd;
}

// ---- calls: one template, in which the id (and the user's number) are written over

static struct buffer template;
static size_t id_offset, user_offset;

static void write_message(struct buffer *out, const char *role, const char *content) {
    write_map(out, 2);
    write_string(out, "role");
    write_string(out, role);
    write_string(out, "content");
    write_string(out, content);
}

static void build_template(void) {
    size_t start = frame_begin(&template);
    write_map(&template, 4);
    write_string(&template, "t");
    write_string(&template, "call");
    write_string(&template, "id");
    write_byte(&template, 0xce);  // 4 bytes whatever the number, so that it can be written over
    id_offset = buffer_length(&template);
    write_big_endian(&template, 0, 4);
    write_string(&template, "method");
    write_string(&template, "chat");
    write_string(&template, "params");
    write_map(&template, options.users ? 4 : 3);
    write_string(&template, "messages");
    write_array(&template, 2);
    write_message(&template, "system", system_prompt());
    write_message(&template, "user", user_prompt());
    write_string(&template, "model");
    write_string(&template, options.model);
    write_string(&template, "stream");
    write_bool(&template, options.streamed);
    if (options.users) {
        write_string(&template, "user");
        write_string(&template, "u0000");
        user_offset = buffer_length(&template) - 4;
    }
    frame_end(&template, start);
}

static void write_call(struct buffer *out, const struct call *call) {
    if (!buffer_length(&template)) build_template();
    char *frame = buffer_reserve(out, buffer_length(&template));
    memcpy(frame, buffer_data(&template), buffer_length(&template));
    store_big_endian(frame + id_offset, call->id, 4);
    if (options.users) {
        unsigned user = call->id % (unsigned)options.users % MAX_USERS;
        for (int place = 3; place >= 0; place--, user /= 10) frame[user_offset + (size_t)place] = (char)('0' + user % 10);
    }
    out->end += buffer_length(&template);
}

// ---- answers

// A message's envelope; `value` (an item's or a result's) and the texts are places in the input.
struct message {
    struct string type, code, text;
    bool has_id;
    uint64_t id;
    struct reader value;
};

static struct reader read_value(struct reader *in) {
    struct reader value = *in;
    skip_value(in);
    value.end = in->at;
    return value;
}

static bool read_message(struct reader in, struct message *message) {
    for (size_t entries = read_map(&in); entries && !in.broken; entries--) {
        struct string key = read_string(&in);
        if (string_is(key, "t")) {
            message->type = read_string(&in);
        } else if (string_is(key, "id")) {
            message->id = read_unsigned(&in);
            message->has_id = true;
        } else if (string_is(key, "value")) {
            message->value = read_value(&in);
        } else if (string_is(key, "code")) {
            message->code = read_string(&in);
        } else if (string_is(key, "message")) {
            message->text = read_string(&in);
        } else {
            skip_value(&in);
        }
    }
    return !in.broken && in.at == in.end;
}

static void take_item(struct call *call, struct reader value, uint64_t now) {
    struct string type = {"", 0}, text = {"", 0};
    for (size_t entries = read_map(&value); entries && !value.broken; entries--) {
        struct string key = read_string(&value);
        if (string_is(key, "type")) type = read_string(&value);
        else if (string_is(key, "text")) text = read_string(&value);
        else skip_value(&value);
    }
    if (value.broken || !string_is(type, "delta") || !options.streamed) results.malformed++;
    else call_text(call, text.text, text.length, now);
}

static void check_text(const struct call *call, struct string text) {
    bool same = options.streamed ? text.length == call->text_length &&
                                       hash_text(EMPTY_TEXT_HASH, text.text, text.length) == call->text_hash
                                 : text.length > 0;
    if (!same) results.wrong_text++;
}

static void take_result(struct call *call, struct reader value, uint64_t now) {
    struct string text = {"", 0};
    bool priced = false;
    for (size_t entries = read_map(&value); entries && !value.broken; entries--) {
        struct string key = read_string(&value);
        if (string_is(key, "text")) {
            text = read_string(&value);
        } else if (string_is(key, "cost_nano_usd") && !next_is_nil(&value)) {
            results.cost_nano_usd += read_unsigned(&value);
            priced = true;
        } else {
            skip_value(&value);
        }
    }
    if (value.broken) results.malformed++;
    else check_text(call, text);
    results.unpriced += !priced;
    call_answered(call, now);
}

static void take_fault(struct connection *connection, const struct message *message) {
    char why[300];
    snprintf(why, sizeof why, "%.*s: %.*s", (int)message->code.length, message->code.text, (int)message->text.length,
             message->text.text);
    struct call *call = message->has_id ? call_by_id(connection, message->id) : NULL;
    call_failed(call, why);
}

static void take_message(struct connection *connection, struct reader payload, uint64_t now) {
    struct message message = {.type = {"", 0}, .code = {"", 0}, .text = {"", 0}};
    if (!read_message(payload, &message)) {
        results.malformed++;
    } else if (string_is(message.type, "fault")) {
        take_fault(connection, &message);
    } else if (!message.has_id) {
        results.malformed++;
    } else {
        struct call *call = call_by_id(connection, message.id);
        if (!call) results.stray++;
        else if (string_is(message.type, "item")) take_item(call, message.value, now);
        else if (string_is(message.type, "done")) take_result(call, message.value, now);
        else results.malformed++;
    }
}

static void read_answers(struct connection *connection, uint64_t now) {
    struct buffer *in = &connection->in;
    while (buffer_length(in) >= LENGTH_BYTES) {
        const uint8_t *frame = (const uint8_t *)buffer_data(in);
        struct reader prefix = {frame, frame + LENGTH_BYTES, false};
        size_t length = read_big_endian(&prefix, LENGTH_BYTES);
        if (buffer_length(in) < LENGTH_BYTES + length) return;
        buffer_consume(in, LENGTH_BYTES + length);
        take_message(connection, (struct reader){frame + LENGTH_BYTES, frame + LENGTH_BYTES + length, false}, now);
    }
}

const struct speaker quorumd_speaker = {connect_to_daemon, write_call, read_answers};
