/* A JSON scanner (RFC 8259) for the CNI executable: is it one object, and which strings are its top-level members?
 *
 * Only shim.c includes it. It allocates nothing, keeps nothing, and does not check that strings are UTF-8: the agent
 * reads the same text again and is the judge. Strings come out decoded, so that no spelling of a key can hide it, and
 * nested keys never come out.
 */
#ifndef K8S_OVS_JSON_SCAN_H
#define K8S_OVS_JSON_SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#define MAX_DEPTH 128
#define MAX_KEY 16
#define MAX_VALUE 512

/* Told of each top-level member that is a string. `value` is NULL if it is longer than MAX_VALUE, or holds a NUL or a
 * lone surrogate. Longer keys than MAX_KEY are not told. */
typedef void member_handler(const char *key, const char *value);

struct scan {
    const char *start, *at, *end;
    const char *why;
    member_handler *member;
};

static bool scan_value(struct scan *s, int depth);

static bool wrong(struct scan *s, const char *why)
{
    if (!s->why)
        s->why = why;
    return false;
}

static void scan_space(struct scan *s)
{
    while (s->at < s->end && (*s->at == ' ' || *s->at == '\t' || *s->at == '\n' || *s->at == '\r'))
        s->at++;
}

static bool scan_char(struct scan *s, char c)
{
    if (s->at == s->end || *s->at != c)
        return false;
    s->at++;
    return true;
}

static bool scan_hex4(struct scan *s, unsigned *code)
{
    *code = 0;
    for (int i = 0; i < 4; i++, s->at++) {
        if (s->at == s->end)
            return false;
        char c = *s->at;
        unsigned digit;
        if (c >= '0' && c <= '9')
            digit = (unsigned)(c - '0');
        else if (c >= 'a' && c <= 'f')
            digit = (unsigned)(c - 'a') + 10;
        else if (c >= 'A' && c <= 'F')
            digit = (unsigned)(c - 'A') + 10;
        else
            return false;
        *code = *code << 4 | digit;
    }
    return true;
}

/* Where a decoded string goes. `overflow` also marks a NUL or a lone surrogate: no path or key of ours has one. */
struct text {
    char *out;
    size_t size, room;
    bool overflow;
};

static void put(struct text *t, unsigned c)
{
    if (c == 0 || t->size + 1 >= t->room)
        t->overflow = true;
    else
        t->out[t->size++] = (char)c;
}

static void put_code_point(struct text *t, unsigned code)
{
    if (code < 0x80) {
        put(t, code);
    } else if (code < 0x800) {
        put(t, 0xc0 | code >> 6);
        put(t, 0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
        put(t, 0xe0 | code >> 12);
        put(t, 0x80 | (code >> 6 & 0x3f));
        put(t, 0x80 | (code & 0x3f));
    } else {
        put(t, 0xf0 | code >> 18);
        put(t, 0x80 | (code >> 12 & 0x3f));
        put(t, 0x80 | (code >> 6 & 0x3f));
        put(t, 0x80 | (code & 0x3f));
    }
}

static bool scan_unicode(struct scan *s, struct text *t)
{
    unsigned code, low;
    if (!scan_hex4(s, &code))
        return wrong(s, "bad \\u escape");
    if (code >= 0xd800 && code <= 0xdbff && s->end - s->at >= 6 && s->at[0] == '\\' && s->at[1] == 'u') {
        const char *before = s->at;
        s->at += 2;
        if (!scan_hex4(s, &low))
            return wrong(s, "bad \\u escape");
        if (low >= 0xdc00 && low <= 0xdfff)
            code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
        else
            s->at = before;
    }
    if (code >= 0xd800 && code <= 0xdfff)
        t->overflow = true;
    else
        put_code_point(t, code);
    return true;
}

static bool scan_escape(struct scan *s, struct text *t)
{
    static const char names[] = "\"\\/bfnrt", values[] = "\"\\/\b\f\n\r\t";
    if (s->at == s->end)
        return wrong(s, "string without end");
    char c = *s->at++;
    if (c == 'u')
        return scan_unicode(s, t);
    const char *found = c ? strchr(names, c) : NULL;
    if (!found)
        return wrong(s, "unknown escape");
    put(t, (unsigned char)values[found - names]);
    return true;
}

static bool scan_string(struct scan *s, struct text *t)
{
    if (!scan_char(s, '"'))
        return wrong(s, "expected a string");
    while (s->at < s->end) {
        unsigned char c = (unsigned char)*s->at++;
        if (c == '"') {
            t->out[t->size] = 0;
            return true;
        }
        if (c < 0x20)
            return wrong(s, "control character in a string");
        if (c == '\\') {
            if (!scan_escape(s, t))
                return false;
        } else {
            put(t, c);
        }
    }
    return wrong(s, "string without end");
}

static bool scan_digits(struct scan *s)
{
    const char *first = s->at;
    while (s->at < s->end && *s->at >= '0' && *s->at <= '9')
        s->at++;
    return s->at > first;
}

static bool scan_number(struct scan *s)
{
    scan_char(s, '-');
    if (!scan_char(s, '0') && !scan_digits(s))
        return wrong(s, "expected a value");
    if (scan_char(s, '.') && !scan_digits(s))
        return wrong(s, "expected digits");
    if (scan_char(s, 'e') || scan_char(s, 'E')) {
        if (!scan_char(s, '+'))
            scan_char(s, '-');
        if (!scan_digits(s))
            return wrong(s, "expected digits");
    }
    return true;
}

static bool scan_word(struct scan *s, const char *word)
{
    size_t size = strlen(word);
    if ((size_t)(s->end - s->at) < size || memcmp(s->at, word, size) != 0)
        return wrong(s, "expected a value");
    s->at += size;
    return true;
}

static bool scan_member(struct scan *s, int depth, const char *key)
{
    if (depth != 1 || !s->member || s->at == s->end || *s->at != '"')
        return scan_value(s, depth);
    char value[MAX_VALUE];
    struct text t = {value, 0, sizeof value, false};
    if (!scan_string(s, &t))
        return false;
    s->member(key, t.overflow ? NULL : value);
    return true;
}

static bool scan_members(struct scan *s, int depth)
{
    for (;;) {
        char key[MAX_KEY];
        struct text t = {key, 0, sizeof key, false};
        scan_space(s);
        if (!scan_string(s, &t))
            return false;
        scan_space(s);
        if (!scan_char(s, ':'))
            return wrong(s, "expected ':'");
        scan_space(s);
        if (!scan_member(s, depth, t.overflow ? "" : key))
            return false;
        scan_space(s);
        if (scan_char(s, '}'))
            return true;
        if (!scan_char(s, ','))
            return wrong(s, "expected ',' or '}'");
    }
}

static bool scan_items(struct scan *s, int depth)
{
    for (;;) {
        scan_space(s);
        if (!scan_value(s, depth))
            return false;
        scan_space(s);
        if (scan_char(s, ']'))
            return true;
        if (!scan_char(s, ','))
            return wrong(s, "expected ',' or ']'");
    }
}

static bool scan_value(struct scan *s, int depth)
{
    if (depth >= MAX_DEPTH)
        return wrong(s, "nested too deeply");
    char nowhere[1];
    struct text ignored = {nowhere, 0, sizeof nowhere, false};
    switch (s->at < s->end ? *s->at : 0) {
    case '{':
        s->at++;
        scan_space(s);
        return scan_char(s, '}') || scan_members(s, depth + 1);
    case '[':
        s->at++;
        scan_space(s);
        return scan_char(s, ']') || scan_items(s, depth + 1);
    case '"':
        return scan_string(s, &ignored);
    case 't':
        return scan_word(s, "true");
    case 'f':
        return scan_word(s, "false");
    case 'n':
        return scan_word(s, "null");
    default:
        return scan_number(s);
    }
}

/* NULL if `text` is one JSON object, else what is wrong at `*offset`. `member` may be NULL. */
static const char *scan_object(const char *text, size_t size, member_handler *member, size_t *offset)
{
    struct scan s = {text, text, text + size, NULL, member};
    scan_space(&s);
    if (s.at == s.end || *s.at != '{')
        wrong(&s, "expected an object");
    else if (scan_value(&s, 0)) {
        scan_space(&s);
        if (s.at < s.end)
            wrong(&s, "text after the object");
    }
    *offset = (size_t)(s.at - s.start);
    return s.why;
}

#endif
