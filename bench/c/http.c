// Speaks to the upstream itself, over HTTP/1.1 with keep-alive: the floor that the daemon's figures stand beside.
#define _GNU_SOURCE
#include "load.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <strings.h>
#include <sys/socket.h>

// Where a connection is in an answer (`http_state`).
enum { HEAD, WHOLE_BODY, CHUNKED_BODY };

static int connect_to_upstream(void) {
    int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)options.port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) die("connect to the upstream");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static struct buffer request;

static void build_request(void) {
    const char *stream = options.streamed ? ",\"stream\":true,\"stream_options\":{\"include_usage\":true}" : "";
    static const char BODY[] =
        "{\"model\":\"%s\",\"messages\":[{\"role\":\"system\",\"content\":\"%s\"},{\"role\":\"user\",\"content\":\"%s\"}]%s}";
    static const char HEADERS[] =
        "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        "Authorization: Bearer bench\r\nContent-Length: %d\r\n\r\n";
    int body_length = snprintf(NULL, 0, BODY, options.model, system_prompt(), user_prompt(), stream);
    char *room = buffer_reserve(&request, sizeof HEADERS + 32 + (size_t)body_length);
    int head_length = sprintf(room, HEADERS, body_length);
    sprintf(room + head_length, BODY, options.model, system_prompt(), user_prompt(), stream);
    request.end += (size_t)(head_length + body_length);
}

static void write_call(struct buffer *out, const struct call *call) {
    (void)call;  // HTTP/1.1 answers in order, and there is one call in flight a connection
    if (!buffer_length(&request)) build_request();
    buffer_append(out, buffer_data(&request), buffer_length(&request));
}

// Reads an answer's head. Returns false while it is incomplete.
static bool take_head(struct connection *connection) {
    struct buffer *in = &connection->in;
    char *head = buffer_data(in), *blank = memmem(head, buffer_length(in), "\r\n\r\n", 4);
    if (!blank) return false;
    *blank = 0;
    const char *length = strcasestr(head, "\r\ncontent-length:");
    connection->http_state = length ? WHOLE_BODY : CHUNKED_BODY;
    connection->http_left = length ? strtoul(length + strlen("\r\ncontent-length:"), NULL, 10) : 0;
    connection->http_status = atoi(head + strlen("HTTP/1.1 "));
    buffer_consume(in, (size_t)(blank - head) + 4);
    return true;
}

static void finish(struct connection *connection, uint64_t now) {
    connection->http_state = HEAD;
    if (!connection->calls->in_flight) results.stray++;
    else if (connection->http_status != 200) call_failed(connection->calls, "an HTTP status other than 200");
    else call_answered(connection->calls, now);
}

static bool take_whole_body(struct connection *connection, uint64_t now) {
    if (buffer_length(&connection->in) < connection->http_left) return false;
    buffer_consume(&connection->in, connection->http_left);
    finish(connection, now);
    return true;
}

// The text of an event: what its delta holds. The upstream's texts have no escapes.
static void take_event(struct call *call, const char *event, size_t length, uint64_t now) {
    static const char KEY[] = "\"content\":\"";
    const char *text = memmem(event, length, KEY, sizeof KEY - 1);
    if (!text) return;
    text += sizeof KEY - 1;
    const char *end = memchr(text, '"', length - (size_t)(text - event));
    if (end && end > text) call_text(call, text, (size_t)(end - text), now);
}

// One chunk of the transfer coding, which is one event. Returns false while it is incomplete.
static bool take_chunk(struct connection *connection, uint64_t now) {
    struct buffer *in = &connection->in;
    char *start = buffer_data(in), *line_end = memmem(start, buffer_length(in), "\r\n", 2);
    if (!line_end) return false;
    size_t length = strtoul(start, NULL, 16), before = (size_t)(line_end - start) + 2;
    if (buffer_length(in) < before + length + 2) return false;
    buffer_consume(in, before + length + 2);
    if (length) take_event(connection->calls, start + before, length, now);
    else finish(connection, now);
    return true;
}

static bool take_next(struct connection *connection, uint64_t now) {
    switch (connection->http_state) {
        case WHOLE_BODY: return take_whole_body(connection, now);
        case CHUNKED_BODY: return take_chunk(connection, now);
        default: return take_head(connection);
    }
}

static void read_answers(struct connection *connection, uint64_t now) {
    while (buffer_length(&connection->in) && take_next(connection, now)) continue;
}

const struct speaker http_speaker = {connect_to_upstream, write_call, read_answers};
