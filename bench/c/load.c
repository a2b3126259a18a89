// A closed-loop load generator: C connections with W calls in flight each; a call that is answered starts the next.
//
//   load -u SOCKET | -p PORT  [-m MODEL] [-s -k CHUNKS] [-C connections] [-W in flight] [-w warm s] [-d measured s]
//        [-n calls instead of a time] [-r ramp ms] [-B prompt bytes] [-U users] [-T timeout s]
//
// With -u it speaks to quorumd (quorumd.c), with -p to the upstream itself (http.c, always one call a connection).
// Prints one JSON object. Latencies count calls that ended inside the measured window; when it is over nothing new starts
// and everything under way is waited for, so that each call is seen to be answered exactly once, and so that whoever
// measures the daemon's CPU can divide it by `answered`.
#define _GNU_SOURCE
#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { EVENTS = 512, RECEIVE_BYTES = 1 << 18, TICK_MS = 50 };

struct options options = {.model = "sim", .prompt_bytes = 590, .connections = 1, .in_flight = 1, .warm_s = 0.3,
                          .measure_s = 2, .timeout_s = 60, .total = -1};
struct results results;

static const struct speaker *speaker;
static int poller;
static struct connection *connections;
static struct call *calls;
static uint32_t call_count;
static uint64_t measure_from, measure_until;

// ---- what is asked

const char *system_prompt(void) {
    return "You are a helpful assistant that answers in one short paragraph and never apologises.";
}

const char *user_prompt(void) {
    static char *prompt;
    if (prompt) return prompt;
    prompt = checked(calloc(options.prompt_bytes + 1, 1));
    for (size_t i = 0; i < options.prompt_bytes; i++) prompt[i] = i % 6 == 5 ? ' ' : (char)('a' + i % 26);
    return prompt;
}

// ---- calls

static bool in_window(uint64_t now) { return now >= measure_from && now <= measure_until; }

static bool may_start(uint64_t now) {
    return options.total >= 0 ? results.issued < (unsigned long)options.total : now < measure_until;
}

static void start_call(struct call *call, uint64_t now) {
    call->id += call_count;  // so an id says its slot and is never used twice
    call->in_flight = true;
    call->starts_at_ns = 0;
    call->sent_ns = now;
    call->first_text_ns = 0;
    call->text_length = call->chunks = 0;
    call->text_hash = EMPTY_TEXT_HASH;
    call->stamp_digits = 0;
    results.issued++;
    if (++results.in_flight > results.in_flight_max) results.in_flight_max = results.in_flight;
    speaker->write_call(&call->connection->out, call);
}

static void end_call(struct call *call, uint64_t now) {
    call->in_flight = false;
    results.in_flight--;
    if (call->connection->fd >= 0 && may_start(now)) start_call(call, now);
}

struct call *call_by_id(struct connection *connection, uint64_t id) {
    struct call *call = &calls[id % call_count];
    return call->in_flight && call->id == id && call->connection == connection ? call : NULL;
}

uint64_t hash_text(uint64_t hash, const char *text, size_t length) {  // FNV-1a
    for (size_t i = 0; i < length; i++) hash = (hash ^ (uint8_t)text[i]) * 1099511628211ull;
    return hash;
}

static void chunk_arrived(struct call *call, uint64_t now) {
    call->chunks++;
    if (!in_window(now)) return;
    results.chunks++;
    samples_add(&results.chunk_delay, now > call->stamp ? now - call->stamp : 0);
}

// Looks for stamps; one may be split between two pieces of text.
static void read_stamps(struct call *call, const char *text, size_t length, uint64_t now) {
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '@') {
            call->stamp = 0;
            call->stamp_digits = STAMP_DIGITS;
        } else if (call->stamp_digits) {
            call->stamp = call->stamp * 10 + (uint64_t)(text[i] - '0');
            if (!--call->stamp_digits) chunk_arrived(call, now);
        }
    }
}

void call_text(struct call *call, const char *text, size_t length, uint64_t now) {
    if (!call->first_text_ns && length) call->first_text_ns = now;
    call->text_length += length;
    call->text_hash = hash_text(call->text_hash, text, length);
    read_stamps(call, text, length, now);
}

void call_answered(struct call *call, uint64_t now) {
    results.answered++;
    if (options.streamed && call->chunks != (size_t)options.expected_chunks) results.wrong_chunks++;
    if (in_window(now)) {
        results.measured++;
        samples_add(&results.latency, now - call->sent_ns);
        if (call->first_text_ns) samples_add(&results.first_token, call->first_text_ns - call->sent_ns);
    }
    end_call(call, now);
}

void call_failed(struct call *call, const char *why) {
    results.faults++;
    if (!results.first_fault[0]) snprintf(results.first_fault, sizeof results.first_fault, "%s", why);
    if (call) end_call(call, now_ns());
}

// ---- connections

static void lose_connection(struct connection *connection) {
    if (connection->fd < 0) return;
    close(connection->fd);
    connection->fd = -1;
    for (int i = 0; i < options.in_flight; i++) {
        connection->calls[i].starts_at_ns = 0;
        if (!connection->calls[i].in_flight) continue;
        results.lost++;
        end_call(&connection->calls[i], now_ns());
    }
}

static void wait_for_room(struct connection *connection, bool wait) {
    if (connection->waits_for_room == wait) return;
    connection->waits_for_room = wait;
    struct epoll_event event = {.events = EPOLLIN | (wait ? EPOLLOUT : 0), .data.ptr = connection};
    epoll_ctl(poller, EPOLL_CTL_MOD, connection->fd, &event);
}

static void send_pending(struct connection *connection) {
    struct buffer *out = &connection->out;
    while (buffer_length(out) && connection->fd >= 0) {
        ssize_t sent = send(connection->fd, buffer_data(out), buffer_length(out), MSG_NOSIGNAL);
        if (sent >= 0) {
            buffer_consume(out, (size_t)sent);
        } else if (errno == EAGAIN) {
            wait_for_room(connection, true);
            return;
        } else if (errno != EINTR) {
            lose_connection(connection);
        }
    }
    if (connection->fd >= 0) wait_for_room(connection, false);
}

static void receive(struct connection *connection) {
    static char bytes[RECEIVE_BYTES];
    ssize_t received = recv(connection->fd, bytes, sizeof bytes, 0);
    if (received > 0) {
        buffer_append(&connection->in, bytes, (size_t)received);
        speaker->read_answers(connection, now_ns());
    } else if (received == 0 || (errno != EAGAIN && errno != EINTR)) {
        lose_connection(connection);
    }
}

static void open_connections(void) {
    call_count = (uint32_t)(options.connections * options.in_flight);
    connections = checked(calloc((size_t)options.connections, sizeof *connections));
    calls = checked(calloc(call_count, sizeof *calls));
    poller = epoll_create1(0);
    for (int i = 0; i < options.connections; i++) {
        struct connection *connection = &connections[i];
        connection->calls = &calls[i * options.in_flight];
        connection->fd = speaker->connect();
        fcntl(connection->fd, F_SETFL, O_NONBLOCK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
        epoll_ctl(poller, EPOLL_CTL_ADD, connection->fd, &event);
    }
    for (uint32_t slot = 0; slot < call_count; slot++) {
        calls[slot].connection = &connections[slot / (uint32_t)options.in_flight];
        calls[slot].id = slot;
    }
}

// ---- the loop

static void schedule_first_calls(uint64_t now) {
    for (uint32_t slot = 0; slot < call_count; slot++)
        calls[slot].starts_at_ns = now + (uint64_t)(options.ramp_ms * (double)NS_PER_MS * slot / call_count);
}

// Starts the first calls whose time has come; returns how long until the next, in nanoseconds, or 0 if none is left.
static uint64_t start_first_calls(uint64_t now) {
    static uint32_t next;
    while (next < call_count && calls[next].starts_at_ns <= now) {
        struct call *call = &calls[next++];
        if (!call->starts_at_ns || !may_start(now)) continue;
        start_call(call, now);
        struct connection *connection = call->connection;
        bool more_follow = next < call_count && calls[next].connection == connection && calls[next].starts_at_ns <= now;
        if (!more_follow) send_pending(connection);
    }
    return next < call_count ? calls[next].starts_at_ns - now : 0;
}

static void handle_event(struct connection *connection, uint32_t events) {
    if (connection->fd >= 0 && events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(connection);
    if (connection->fd >= 0) send_pending(connection);  // the calls that follow those answered
}

static void run(void) {
    struct epoll_event events[EVENTS];
    uint64_t now = now_ns();
    measure_from = now + (uint64_t)(options.warm_s * NS_PER_S);
    measure_until = options.total >= 0 ? UINT64_MAX : measure_from + (uint64_t)(options.measure_s * NS_PER_S);
    uint64_t give_up = (options.total >= 0 ? now : measure_until) + (uint64_t)(options.timeout_s * NS_PER_S);
    schedule_first_calls(now);
    for (;;) {
        uint64_t wait = start_first_calls(now);
        if ((!results.in_flight && !wait) || now > give_up) break;
        struct timespec timeout = {.tv_nsec = (long)(wait && wait < TICK_MS * NS_PER_MS ? wait : TICK_MS * NS_PER_MS)};
        int count = epoll_pwait2(poller, events, EVENTS, &timeout, NULL);
        for (int i = 0; i < count; i++) handle_event(events[i].data.ptr, events[i].events);
        now = now_ns();
    }
    results.unanswered = (unsigned long)results.in_flight;
    if (options.total >= 0) measure_until = now;
}

// ---- the report

static double own_cpu_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void print_text(const char *text) {  // as the inside of a JSON string
    for (; *text; text++)
        if ((unsigned char)*text >= ' ' && *text != '"' && *text != '\\') putchar(*text);
}

static void print_results(void) {
    double elapsed_s = (double)(measure_until - measure_from) / NS_PER_S;
    printf("{\"issued\":%lu,\"answered\":%lu,\"measured\":%lu,\"elapsed_s\":%.3f,\"calls_per_s\":%.1f,", results.issued,
           results.answered, results.measured, elapsed_s, (double)results.measured / elapsed_s);
    printf("\"faults\":%lu,\"stray\":%lu,\"malformed\":%lu,\"wrong_text\":%lu,\"wrong_chunks\":%lu,\"lost\":%lu,",
           results.faults, results.stray, results.malformed, results.wrong_text, results.wrong_chunks, results.lost);
    printf("\"unanswered\":%lu,\"unpriced\":%lu,\"cost_nano_usd\":%llu,\"in_flight_max\":%d,", results.unanswered,
           results.unpriced, (unsigned long long)results.cost_nano_usd, results.in_flight_max);
    samples_print(&results.latency, "latency_us");
    printf(",");
    samples_print(&results.first_token, "first_token_us");
    printf(",");
    samples_print(&results.chunk_delay, "chunk_delay_us");
    printf(",\"chunks_per_s\":%.0f,\"own_cpu_s\":%.3f,\"first_fault\":\"", (double)results.chunks / elapsed_s, own_cpu_s());
    print_text(results.first_fault);
    printf("\"}\n");
}

static bool read_options(int argc, char **argv) {
    int option;
    while ((option = getopt(argc, argv, "u:p:m:sk:C:W:w:d:n:r:B:U:T:")) != -1) {
        switch (option) {
            case 'u': options.socket_path = optarg; break;
            case 'p': options.port = atoi(optarg); break;
            case 'm': options.model = optarg; break;
            case 's': options.streamed = true; break;
            case 'k': options.expected_chunks = atoi(optarg); break;
            case 'C': options.connections = atoi(optarg); break;
            case 'W': options.in_flight = atoi(optarg); break;
            case 'w': options.warm_s = atof(optarg); break;
            case 'd': options.measure_s = atof(optarg); break;
            case 'n': options.total = atol(optarg); break;
            case 'r': options.ramp_ms = atof(optarg); break;
            case 'B': options.prompt_bytes = strtoul(optarg, NULL, 10); break;
            case 'U': options.users = atoi(optarg); break;
            case 'T': options.timeout_s = atof(optarg); break;
            default: return false;
        }
    }
    bool valid = options.connections > 0 && options.in_flight > 0 && !options.socket_path != !options.port;
    return valid && (options.socket_path || options.in_flight == 1);
}

int main(int argc, char **argv) {
    if (!read_options(argc, argv)) {
        fprintf(stderr, "usage: load -u SOCKET | -p PORT ... (see the first lines of load.c)\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGTERM);  // it never outlives the benchmark
    prctl(PR_SET_TIMERSLACK, 1);
    speaker = options.socket_path ? &quorumd_speaker : &http_speaker;
    open_connections();
    run();
    print_results();
    return 0;
}
