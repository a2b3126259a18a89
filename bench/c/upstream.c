// A fast upstream that speaks the OpenAI dialect: one thread, epoll, HTTP/1.1 with keep-alive on 127.0.0.1.
//
//   upstream [-p PORT]        prints "listening PORT" once it does; port 0 (the default) takes a free one
//
// The model's name in the request chooses how it answers, in parts joined by '-':
//   l<ms>     latency before the first byte of the answer
//   n<count>  chunks of a streamed answer (default 200)
//   i<us>     pace: microseconds between chunks (default 0, all at once: a burst)
// for example "sim", "sim-l50", "sim-n200-i5000". `"stream":true` chooses server-sent events.
// Each chunk holds a stamp (see common.h). GET /stats counts; every other GET lists one model.
#define _GNU_SOURCE
#include "common.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 512, RECEIVE_BYTES = 16384, BACKLOG = 4096, DEFAULT_CHUNKS = 200 };

enum state {
    READING,          // waits for a request, or for the rest of one
    DELAYING_ANSWER,  // the latency before a whole answer runs
    DELAYING_STREAM,  // the latency before a stream runs
    STREAMING,        // the next chunk waits for its time
};

struct behaviour {
    uint64_t latency_ns, pace_ns;
    int chunks;
    bool streamed, counts_usage;
};

struct connection {
    int fd;
    enum state state;
    struct behaviour asked;
    int chunks_sent;
    struct buffer in, out;
    bool waits_for_room;  // EPOLLOUT is armed
    bool closed;
    uint64_t due_ns;      // when its timer fires
    int timer;            // its place in the heap, or -1
    struct connection *next_closed;
};

static int poller;
static struct connection *closed_connections;  // freed after the events of a turn, which may still name them
static struct {
    unsigned long requests, streams, streams_cut, connections, connections_open;
} stats;

// ---- timers: a binary heap by due time

static struct connection **timers;
static int timer_count, timer_capacity;

static void timer_place(int place, struct connection *connection) {
    timers[place] = connection;
    connection->timer = place;
}

static void timer_rise(int place) {
    struct connection *connection = timers[place];
    while (place > 0 && timers[(place - 1) / 2]->due_ns > connection->due_ns) {
        timer_place(place, timers[(place - 1) / 2]);
        place = (place - 1) / 2;
    }
    timer_place(place, connection);
}

static void timer_sink(int place) {
    struct connection *connection = timers[place];
    for (;;) {
        int child = 2 * place + 1;
        if (child >= timer_count) break;
        if (child + 1 < timer_count && timers[child + 1]->due_ns < timers[child]->due_ns) child++;
        if (timers[child]->due_ns >= connection->due_ns) break;
        timer_place(place, timers[child]);
        place = child;
    }
    timer_place(place, connection);
}

static void timer_set(struct connection *connection, uint64_t due_ns) {
    connection->due_ns = due_ns;
    if (timer_count == timer_capacity) {
        timer_capacity = timer_capacity ? timer_capacity * 2 : 256;
        timers = checked(realloc(timers, (size_t)timer_capacity * sizeof *timers));
    }
    timer_place(timer_count++, connection);
    timer_rise(connection->timer);
}

static void timer_cancel(struct connection *connection) {
    int place = connection->timer;
    if (place < 0) return;
    connection->timer = -1;
    struct connection *last = timers[--timer_count];
    if (last == connection) return;
    timer_place(place, last);
    timer_rise(place);
    timer_sink(last->timer);
}

// ---- sending

static void close_connection(struct connection *connection) {
    if (connection->closed) return;
    if (connection->state == STREAMING) stats.streams_cut++;
    connection->closed = true;
    timer_cancel(connection);
    close(connection->fd);
    stats.connections_open--;
    connection->next_closed = closed_connections;
    closed_connections = connection;
}

static void wait_for_room(struct connection *connection, bool wait) {
    if (connection->waits_for_room == wait) return;
    connection->waits_for_room = wait;
    struct epoll_event event = {.events = EPOLLIN | (wait ? EPOLLOUT : 0), .data.ptr = connection};
    epoll_ctl(poller, EPOLL_CTL_MOD, connection->fd, &event);
}

static void send_pending(struct connection *connection) {
    struct buffer *out = &connection->out;
    while (buffer_length(out) && !connection->closed) {
        ssize_t sent = send(connection->fd, buffer_data(out), buffer_length(out), MSG_NOSIGNAL);
        if (sent >= 0) {
            buffer_consume(out, (size_t)sent);
        } else if (errno == EAGAIN) {
            wait_for_room(connection, true);
            return;
        } else if (errno != EINTR) {
            close_connection(connection);
        }
    }
    if (!connection->closed) wait_for_room(connection, false);
}

// ---- what is answered

static const char ANSWER[] =
    "{\"id\":\"chatcmpl-bench0123456789\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"sim\","
    "\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"The quick brown fox jumps over the lazy "
    "dog. The quick brown fox jumps over the lazy dog. The quick brown fox jumps over the lazy dog.\",\"refusal\":null},"
    "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":120,\"completion_tokens\":30,"
    "\"total_tokens\":150,\"prompt_tokens_details\":{\"cached_tokens\":0},"
    "\"completion_tokens_details\":{\"reasoning_tokens\":0}},\"system_fingerprint\":\"fp_bench\"}";

#define CHUNK_HEAD \
    "data: {\"id\":\"chatcmpl-bench0123456789\",\"object\":\"chat.completion.chunk\",\"created\":1700000000," \
    "\"model\":\"sim\",\"system_fingerprint\":\"fp_bench\",\"choices\":["
#define CHOICE(delta, reason) "{\"index\":0,\"delta\":" delta ",\"logprobs\":null,\"finish_reason\":" reason "}"
#define EVENT_END "]}\n\n"

static const char MODELS[] =
    "{\"object\":\"list\",\"data\":[{\"id\":\"sim\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"bench\"}]}";

static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    "Transfer-Encoding: chunked\r\n\r\n";

static void put_json(struct connection *connection, const char *body, size_t length) {
    char head[128];
    int size = snprintf(head, sizeof head,
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_bench\r\n"
                        "Content-Length: %zu\r\n\r\n",
                        length);
    buffer_append(&connection->out, head, (size_t)size);
    buffer_append(&connection->out, body, length);
}

// One event as one chunk of the chunked transfer coding, as providers send them.
static void put_event(struct connection *connection, const char *event, size_t length) {
    char head[16];
    buffer_append(&connection->out, head, (size_t)snprintf(head, sizeof head, "%zx\r\n", length));
    buffer_append(&connection->out, event, length);
    buffer_append(&connection->out, "\r\n", 2);
}

#define PUT_EVENT(connection, literal) put_event(connection, literal, sizeof(literal) - 1)

// A content delta. All have one length, so the template is copied and its digits are written over.
static void put_stamped_chunk(struct connection *connection) {
    static const char BEFORE[] = CHUNK_HEAD "{\"index\":0,\"delta\":{\"content\":\"@";
    static char event[] = CHUNK_HEAD CHOICE("{\"content\":\"@00000000000000000000 \"}", "null") EVENT_END;
    uint64_t stamp = now_ns();
    for (char *digit = event + sizeof BEFORE - 1 + STAMP_DIGITS - 1; stamp; stamp /= 10) *digit-- = (char)('0' + stamp % 10);
    put_event(connection, event, sizeof event - 1);
    connection->chunks_sent++;
}

static void put_stream_end(struct connection *connection) {
    PUT_EVENT(connection, CHUNK_HEAD CHOICE("{}", "\"stop\"") EVENT_END);
    if (connection->asked.counts_usage) {
        char event[512];
        int chunks = connection->asked.chunks;
        int length = snprintf(event, sizeof event,
                              CHUNK_HEAD "],\"usage\":{\"prompt_tokens\":120,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n",
                              chunks, 120 + chunks);
        put_event(connection, event, (size_t)length);
    }
    PUT_EVENT(connection, "data: [DONE]\n\n");
    buffer_append(&connection->out, "0\r\n\r\n", 5);
    connection->state = READING;
    stats.streams++;
}

// Sends what is due of a stream: everything in a burst, one chunk when it is paced.
static void continue_stream(struct connection *connection) {
    const struct behaviour *asked = &connection->asked;
    if (asked->pace_ns) {
        if (connection->chunks_sent < asked->chunks) put_stamped_chunk(connection);
        else put_stream_end(connection);
    } else {
        while (connection->chunks_sent < asked->chunks) put_stamped_chunk(connection);
        put_stream_end(connection);
    }
    send_pending(connection);
    if (connection->state == STREAMING && !connection->closed) timer_set(connection, connection->due_ns + asked->pace_ns);
}

static void start_stream(struct connection *connection) {
    connection->state = STREAMING;
    connection->chunks_sent = 0;
    connection->due_ns = now_ns();
    buffer_append(&connection->out, STREAM_HEAD, sizeof STREAM_HEAD - 1);
    PUT_EVENT(connection, CHUNK_HEAD CHOICE("{\"role\":\"assistant\",\"content\":\"\"}", "null") EVENT_END);
    continue_stream(connection);
}

static void answer_whole(struct connection *connection) {
    connection->state = READING;
    put_json(connection, ANSWER, sizeof ANSWER - 1);
    send_pending(connection);
}

static void answer_chat(struct connection *connection) {
    const struct behaviour *asked = &connection->asked;
    if (asked->latency_ns) {
        connection->state = asked->streamed ? DELAYING_STREAM : DELAYING_ANSWER;
        timer_set(connection, now_ns() + asked->latency_ns);
    } else if (asked->streamed) {
        start_stream(connection);
    } else {
        answer_whole(connection);
    }
}

static void answer_get(struct connection *connection, bool for_stats) {
    char body[256];
    if (!for_stats) {
        put_json(connection, MODELS, sizeof MODELS - 1);
    } else {
        int length = snprintf(body, sizeof body,
                              "{\"requests\":%lu,\"streams\":%lu,\"streams_cut\":%lu,\"connections\":%lu,\"connections_open\":%lu}",
                              stats.requests, stats.streams, stats.streams_cut, stats.connections, stats.connections_open);
        put_json(connection, body, (size_t)length);
    }
    send_pending(connection);
}

// ---- what is asked

// The value of a key of the request's top level; it is enough to look for the quoted key, since the generator's prompts
// hold no quotes. `body` ends with a NUL.
static const char *value_of(const char *body, const char *quoted_key) {
    const char *at = strstr(body, quoted_key);
    if (!at) return "";
    at += strlen(quoted_key);
    while (*at == ' ' || *at == ':') at++;
    return at;
}

static struct behaviour read_behaviour(const char *body) {
    struct behaviour asked = {.chunks = DEFAULT_CHUNKS};
    asked.streamed = *value_of(body, "\"stream\"") == 't';
    asked.counts_usage = *value_of(body, "\"include_usage\"") == 't';
    const char *model = value_of(body, "\"model\"");
    if (*model != '"') return asked;
    for (const char *at = model + 1; *at && *at != '"'; at++) {
        if (*at != '-') continue;
        if (at[1] == 'l') asked.latency_ns = strtoull(at + 2, NULL, 10) * NS_PER_MS;
        if (at[1] == 'n') asked.chunks = atoi(at + 2);
        if (at[1] == 'i') asked.pace_ns = strtoull(at + 2, NULL, 10) * NS_PER_US;
    }
    return asked;
}

// The value of a header, or NULL. `head` ends with a NUL.
static const char *header(const char *head, const char *name) {
    const char *at = strcasestr(head, name);
    return at ? at + strlen(name) : NULL;
}

// The length of the body behind a head, or -1 while a chunked body is incomplete.
static ssize_t body_length(const char *head, const char *body, size_t available) {
    const char *length = header(head, "\r\ncontent-length:");
    if (length) return (ssize_t)strtoul(length, NULL, 10);
    if (!header(head, "\r\ntransfer-encoding: chunked")) return 0;
    const char *end = memmem(body, available, "0\r\n\r\n", 5);
    return end ? end + 5 - body : -1;
}

// Takes one request from the input and answers it. Returns false when none is complete.
static bool take_request(struct connection *connection) {
    char *request = buffer_data(&connection->in);
    size_t available = buffer_length(&connection->in);
    char *blank = available ? memmem(request, available, "\r\n\r\n", 4) : NULL;
    if (!blank) return false;
    size_t head_length = (size_t)(blank - request) + 4;
    char *body = request + head_length;

    *blank = 0;
    ssize_t length = body_length(request, body, available - head_length);
    bool is_post = !strncmp(request, "POST", 4), for_stats = !strncmp(request, "GET /stats", 10);
    *blank = '\r';
    if (length < 0 || available < head_length + (size_t)length) return false;

    if (is_post) {
        char after = body[length];  // there is always room for one byte more, see read_input
        body[length] = 0;
        connection->asked = read_behaviour(body);
        body[length] = after;
    }
    buffer_consume(&connection->in, head_length + (size_t)length);
    stats.requests += is_post;
    if (is_post) answer_chat(connection);
    else answer_get(connection, for_stats);
    return true;
}

static void take_requests(struct connection *connection) {
    while (connection->state == READING && !connection->closed && take_request(connection)) continue;
}

static void read_input(struct connection *connection) {
    for (;;) {
        char *room = buffer_reserve(&connection->in, RECEIVE_BYTES + 1);
        ssize_t received = recv(connection->fd, room, RECEIVE_BYTES, 0);
        if (received <= 0) {
            if (received == 0 || errno != EAGAIN) close_connection(connection);
            return;
        }
        connection->in.end += (size_t)received;
        if (received < RECEIVE_BYTES) return;
    }
}

// ---- the loop

static void fire_timer(struct connection *connection) {
    timer_cancel(connection);
    switch (connection->state) {
        case DELAYING_ANSWER: answer_whole(connection); break;
        case DELAYING_STREAM: start_stream(connection); break;
        case STREAMING: continue_stream(connection); break;
        case READING: break;
    }
    take_requests(connection);
}

static void handle_events(struct connection *connection, uint32_t events) {
    if (connection->closed) return;
    if (events & EPOLLOUT) send_pending(connection);
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !connection->closed) read_input(connection);
    take_requests(connection);
}

static void accept_connections(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *connection = checked(calloc(1, sizeof *connection));
        connection->fd = fd;
        connection->timer = -1;
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &event);
        stats.connections++;
        stats.connections_open++;
    }
}

static void free_closed_connections(void) {
    while (closed_connections) {
        struct connection *connection = closed_connections;
        closed_connections = connection->next_closed;
        buffer_free(&connection->in);
        buffer_free(&connection->out);
        free(connection);
    }
}

static int listen_on(int port) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, BACKLOG)) die("listen");
    getsockname(listener, (struct sockaddr *)&address, &size);
    printf("listening %d\n", ntohs(address.sin_port));
    fflush(stdout);
    return listener;
}

static void run(int listener) {
    struct epoll_event events[EVENTS], listening = {.events = EPOLLIN, .data.ptr = NULL};
    poller = epoll_create1(0);
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &listening);
    for (;;) {
        struct timespec wait = {0}, *timeout = NULL;
        if (timer_count) {
            uint64_t now = now_ns(), due = timers[0]->due_ns, left = due > now ? due - now : 0;
            wait = (struct timespec){.tv_sec = (time_t)(left / NS_PER_S), .tv_nsec = (long)(left % NS_PER_S)};
            timeout = &wait;
        }
        int count = epoll_pwait2(poller, events, EVENTS, timeout, NULL);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr) handle_events(events[i].data.ptr, events[i].events);
            else accept_connections(listener);
        }
        uint64_t now = now_ns();
        while (timer_count && timers[0]->due_ns <= now) fire_timer(timers[0]);
        free_closed_connections();
    }
}

int main(int argc, char **argv) {
    int port = 0, option;
    while ((option = getopt(argc, argv, "p:")) != -1) {
        if (option != 'p') return 2;
        port = atoi(optarg);
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGTERM);  // it never outlives the benchmark
    prctl(PR_SET_TIMERSLACK, 1);       // a pace of 5 ms is 5 ms, not 5.05
    run(listen_on(port));
}
