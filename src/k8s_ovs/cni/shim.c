/* The CNI plugin that the container runtime executes: it hands the request to the agent and prints the answer.
 *
 * Static, C11 and POSIX only, because a host need not have Python or our libraries. All logic is in the agent; this
 * program decides three things itself: where the agent's socket is (the top-level key "socket" of the configuration on
 * stdin), the answer to VERSION, and the error to give when no agent answers. It never touches the network.
 *
 * Wire, one request per connection: the line "k8s-ovs-cni/1\n"; every CNI_* variable as NAME=value\0; an empty string
 * (\0); stdin as it came; shutdown of the sending side. Answer: one octet, '0' or '1' (the exit status), then the text
 * for stdout, then the end of the stream.
 */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "json_scan.h"

#define DEFAULT_SOCKET "/run/k8s-ovs/cni.sock"
#define NEWEST_VERSION "1.1.0"
#define SUPPORTED_VERSIONS "[\"0.3.1\",\"0.4.0\",\"1.0.0\",\"1.1.0\"]"
#define GREETING "k8s-ovs-cni/1\n"
#define INPUT_LIMIT (1024 * 1024)
#ifndef WAIT_SECONDS
#define WAIT_SECONDS 110 /* less than the two minutes after which kubelet gives up on its runtime */
#endif

/* Error codes of the CNI specification 1.1, section "Error". */
enum {
    INVALID_ENVIRONMENT = 4,
    IO_FAILURE = 5,
    DECODE_FAILURE = 6,
    INVALID_CONFIG = 7,
    TRY_AGAIN = 11,
    UNAVAILABLE = 50,
};

extern char **environ;

struct buffer {
    char *data;
    size_t size, room;
};

struct conf {
    char version[32];
    char socket[MAX_VALUE];
};

static struct conf conf = {NEWEST_VERSION, DEFAULT_SOCKET};
static long long deadline_ms;

/* --- output ------------------------------------------------------------------------------------------------------- */

static void print_all(const char *text, size_t size)
{
    while (size > 0) {
        ssize_t n = write(STDOUT_FILENO, text, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return; /* nobody reads: the exit status is all that is left to say */
        text += n;
        size -= (size_t)n;
    }
}

static void print_json_string(const char *text)
{
    print_all("\"", 1);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        char out[8];
        if (c == '"' || c == '\\')
            snprintf(out, sizeof out, "\\%c", c);
        else if (c < 0x20 || c == 0x7f)
            snprintf(out, sizeof out, "\\u%04x", c);
        else if (c > 0x7f)
            snprintf(out, sizeof out, "?"); /* a path may hold octets that are no UTF-8; JSON may not */
        else
            snprintf(out, sizeof out, "%c", c);
        print_all(out, strlen(out));
    }
    print_all("\"", 1);
}

/* Print a CNI error object and end with status 1. */
static _Noreturn void fail(int code, const char *remedy, const char *format, ...)
{
    char message[1024], head[128];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    snprintf(head, sizeof head, "{\"cniVersion\":\"%s\",\"code\":%d,\"msg\":", conf.version, code);
    print_all(head, strlen(head));
    print_json_string(message);
    print_all(",\"details\":", 11);
    print_json_string(remedy);
    print_all("}\n", 2);
    exit(1);
}

static _Noreturn void no_agent(const char *what, const char *why)
{
    const char *command = getenv("CNI_COMMAND");
    bool status = command && strcmp(command, "STATUS") == 0;
    fail(status ? UNAVAILABLE : TRY_AGAIN, "see that the k8s-ovs agent runs on this node; the request may be repeated",
         "%s %s: %s", what, conf.socket, why);
}

/* --- time and memory ---------------------------------------------------------------------------------------------- */

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (long long)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Milliseconds left, at least 1: a timeout of 0 would mean "for ever" to the kernel. */
static long long left_ms(void)
{
    long long left = deadline_ms - now_ms();
    return left > 0 ? left : 1;
}

static void append(struct buffer *to, const void *data, size_t size)
{
    if (to->room - to->size <= size) { /* also for no octets at all: nobody gets to see a null pointer */
        size_t room = 2 * to->room + size + 4096;
        char *bigger = realloc(to->data, room);
        if (!bigger)
            fail(IO_FAILURE, "free some memory on this node", "no memory for a request of %zu octets", room);
        to->data = bigger;
        to->room = room;
    }
    memcpy(to->data + to->size, data, size);
    to->size += size;
}

/* --- the request and its answer ----------------------------------------------------------------------------------- */

/* Keep the two top-level members that concern us; of equal keys the last counts, as for the agent. */
static void take_member(const char *key, const char *value)
{
    if (strcmp(key, "socket") == 0) {
        if (!value || *value != '/')
            fail(INVALID_CONFIG, "give an absolute path of at most 107 octets",
                 "socket in the network configuration is no path");
        memcpy(conf.socket, value, strlen(value) + 1);
    } else if (strcmp(key, "cniVersion") == 0) {
        /* What is no version is the agent's to explain; we do not print what could break our own JSON. */
        if (value && *value && strlen(value) < sizeof conf.version && value[strspn(value, "0123456789.")] == 0)
            memcpy(conf.version, value, strlen(value) + 1);
    }
}

static void read_stdin(struct buffer *input)
{
    char chunk[16384];
    for (;;) {
        struct pollfd ready = {STDIN_FILENO, POLLIN, 0};
        int n = poll(&ready, 1, (int)left_ms());
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0 && now_ms() < deadline_ms)
            continue;
        if (n <= 0)
            fail(IO_FAILURE, "close the plugin's stdin after the network configuration",
                 "stdin did not end within %d s", WAIT_SECONDS);
        ssize_t got = read(STDIN_FILENO, chunk, sizeof chunk);
        if (got < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (got < 0)
            fail(IO_FAILURE, "give the network configuration on stdin", "cannot read stdin: %s", strerror(errno));
        if (got == 0)
            return;
        if (input->size + (size_t)got > INPUT_LIMIT)
            fail(DECODE_FAILURE, "shorten the network configuration",
                 "stdin is larger than %d octets", INPUT_LIMIT);
        append(input, chunk, (size_t)got);
    }
}

static void set_timeout(int peer, int option)
{
    long long left = left_ms();
    struct timeval limit = {.tv_sec = left / 1000, .tv_usec = (left % 1000) * 1000};
    setsockopt(peer, SOL_SOCKET, option, &limit, sizeof limit);
}

static bool out_of_time(int error)
{
    return (error == EAGAIN || error == EWOULDBLOCK) && now_ms() >= deadline_ms;
}

static const char *time_is_up(void)
{
    static char text[64];
    snprintf(text, sizeof text, "no answer within %d s", WAIT_SECONDS);
    return text;
}

static int connect_agent(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(conf.socket) >= sizeof address.sun_path)
        fail(INVALID_CONFIG, "give an absolute path of at most 107 octets",
             "socket %s in the network configuration is too long", conf.socket);
    memcpy(address.sun_path, conf.socket, strlen(conf.socket) + 1);
    int peer = socket(AF_UNIX, SOCK_STREAM, 0);
    if (peer < 0)
        no_agent("cannot make a socket for", strerror(errno));
    for (;;) {
        set_timeout(peer, SO_SNDTIMEO);
        if (connect(peer, (struct sockaddr *)&address, sizeof address) == 0)
            return peer;
        if (out_of_time(errno))
            no_agent("cannot connect to the agent at", time_is_up());
        if (errno != EINTR && errno != EAGAIN)
            no_agent("cannot connect to the agent at", strerror(errno));
    }
}

/* Send all, or as much as the agent takes: one that refuses the request closes early, and its answer says why. */
static void send_request(int peer, const struct buffer *request)
{
    size_t sent = 0;
    while (sent < request->size) {
        set_timeout(peer, SO_SNDTIMEO);
        ssize_t n = send(peer, request->data + sent, request->size - sent, MSG_NOSIGNAL);
        if (n >= 0)
            sent += (size_t)n;
        else if (out_of_time(errno))
            no_agent("cannot send to the agent at", time_is_up());
        else if (errno != EINTR && errno != EAGAIN)
            return;
    }
    shutdown(peer, SHUT_WR);
}

static void read_answer(int peer, struct buffer *answer)
{
    char chunk[16384];
    for (;;) {
        set_timeout(peer, SO_RCVTIMEO);
        ssize_t n = recv(peer, chunk, sizeof chunk, 0);
        if (n < 0 && out_of_time(errno))
            no_agent("cannot read from the agent at", time_is_up());
        if (n < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        if (n <= 0) /* ECONNRESET comes after all that was sent, when the agent did not read our request to its end */
            return;
        if (answer->size + (size_t)n > INPUT_LIMIT)
            no_agent("cannot read from the agent at", "the answer is too large");
        append(answer, chunk, (size_t)n);
    }
}

static int ask_agent(const struct buffer *input)
{
    static struct buffer request, answer; /* static: they live as long as the process, and so nothing leaks */
    append(&request, GREETING, strlen(GREETING));
    for (char **variable = environ; *variable; variable++)
        if (strncmp(*variable, "CNI_", 4) == 0)
            append(&request, *variable, strlen(*variable) + 1);
    append(&request, "", 1);
    append(&request, input->data, input->size);

    int peer = connect_agent();
    send_request(peer, &request);
    read_answer(peer, &answer);
    if (answer.size == 0)
        no_agent("no answer from the agent at", "it closed the connection");
    size_t offset;
    bool complete = answer.size == 1 || !scan_object(answer.data + 1, answer.size - 1, NULL, &offset);
    if (!complete || (answer.data[0] != '0' && answer.data[0] != '1'))
        no_agent("no complete answer from the agent at", "it broke off");
    print_all(answer.data + 1, answer.size - 1);
    return answer.data[0] - '0';
}

static int answer_version(void)
{
    char text[256];
    snprintf(text, sizeof text, "{\"cniVersion\":\"%s\",\"supportedVersions\":%s}\n", conf.version, SUPPORTED_VERSIONS);
    print_all(text, strlen(text));
    return 0;
}

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    deadline_ms = now_ms() + WAIT_SECONDS * 1000LL;
    const char *command = getenv("CNI_COMMAND");
    if (!command || !*command)
        fail(INVALID_ENVIRONMENT, "this is a CNI plugin: the container runtime executes it, people need not",
             "CNI_COMMAND is not set");
    static struct buffer input;
    append(&input, "", 0);
    read_stdin(&input);
    size_t offset;
    const char *why = scan_object(input.data, input.size, take_member, &offset);
    if (strcmp(command, "VERSION") == 0)
        return answer_version();
    if (why)
        fail(DECODE_FAILURE, "give a CNI network configuration as a JSON object",
             "stdin is not a JSON object: %s at octet %zu of %zu", why, offset, input.size);
    return ask_agent(&input);
}
