/* Just enough JSON (RFC 8259) to read the claim: find a key, copy a string, read a whole number.
 * Works on slices, allocates nothing, refuses nesting deeper than 16. Included by agent.c and probe_desk.c. */
#ifndef MYPHR_JSON_H
#define MYPHR_JSON_H
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct slice { const char *start, *end; };

static const char *json_blank(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
    return p;
}

static const char *json_string_end(const char *p, const char *end) {
    if (p >= end || *p != '"') return NULL;
    for (p++; p < end; p++) {
        if ((unsigned char)*p < 0x20) return NULL;
        if (*p == '\\') { p++; continue; }
        if (*p == '"') return p + 1;
    }
    return NULL;
}

/* The end of the value that starts at p, or NULL when it is not complete and well formed. */
static const char *json_value_end(const char *p, const char *end, int depth) {
    p = json_blank(p, end);
    if (p >= end || depth > 16) return NULL;
    if (*p == '"') return json_string_end(p, end);
    if (*p == '{' || *p == '[') {
        char close = *p == '{' ? '}' : ']';
        bool object = *p == '{';
        p = json_blank(p + 1, end);
        if (p < end && *p == close) return p + 1;
        for (;;) {
            if (object) {
                p = json_string_end(json_blank(p, end), end);
                if (!p) return NULL;
                p = json_blank(p, end);
                if (p >= end || *p != ':') return NULL;
                p++;
            }
            p = json_value_end(p, end, depth + 1);
            if (!p) return NULL;
            p = json_blank(p, end);
            if (p >= end) return NULL;
            if (*p == close) return p + 1;
            if (*p != ',') return NULL;
            p++;
        }
    }
    const char *start = p;
    while (p < end && strchr("+-.0123456789eEtrufalsn", *p)) p++;
    return p > start ? p : NULL;
}

/* The whole document as one object, nothing after it but blanks. */
static bool json_document(const char *text, size_t bytes, struct slice *object) {
    const char *end = text + bytes, *start = json_blank(text, end);
    if (start >= end || *start != '{') return false;
    const char *stop = json_value_end(start, end, 0);
    if (!stop || json_blank(stop, end) != end) return false;
    object->start = start;
    object->end = stop;
    return true;
}

/* The value of `key` in a well-formed object. Keys with escapes are not found: ours have none. */
static bool json_get(struct slice object, const char *key, struct slice *value) {
    size_t key_bytes = strlen(key);
    const char *p = json_blank(object.start, object.end), *end = object.end;
    if (p >= end || *p != '{') return false;
    for (p++; p < end;) {
        p = json_blank(p, end);
        if (p >= end || *p == '}') return false;
        const char *name = p + 1, *name_end = json_string_end(p, end);
        if (!name_end) return false;
        p = json_blank(name_end, end) + 1; /* the colon */
        const char *start = json_blank(p, end), *stop = json_value_end(start, end, 0);
        if (!stop) return false;
        if ((size_t)(name_end - 1 - name) == key_bytes && memcmp(name, key, key_bytes) == 0) {
            value->start = start;
            value->end = stop;
            return true;
        }
        p = json_blank(stop, end);
        if (p < end && *p == ',') p++;
    }
    return false;
}

static int json_hex4(const char *p) {
    int n = 0;
    for (int i = 0; i < 4; i++) {
        char c = p[i];
        int d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        n = n * 16 + d;
    }
    return n;
}

/* A string value as UTF-8 with its end mark. False when it is no string, holds NUL, or does not fit. */
static bool json_text(struct slice value, char *out, size_t room) {
    const char *p = value.start, *end = value.end;
    if (p >= end || *p != '"') return false;
    size_t n = 0;
    for (p++; p < end - 1; p++) {
        unsigned code = (unsigned char)*p;
        bool raw = true;
        if (*p == '\\') {
            p++;
            switch (*p) {
            case 'n': code = '\n'; break;
            case 't': code = '\t'; break;
            case 'r': code = '\r'; break;
            case 'b': code = '\b'; break;
            case 'f': code = '\f'; break;
            case 'u': {
                if (end - p < 6) return false;
                int unit = json_hex4(p + 1);
                if (unit <= 0) return false;
                p += 4;
                code = (unsigned)unit;
                if (code >= 0xD800 && code < 0xDC00) {
                    if (end - p < 8 || p[1] != '\\' || p[2] != 'u') return false;
                    int low = json_hex4(p + 3);
                    if (low < 0xDC00 || low > 0xDFFF) return false;
                    p += 6;
                    code = 0x10000 + ((code - 0xD800) << 10) + ((unsigned)low - 0xDC00);
                }
                raw = false;
                break;
            }
            default: code = (unsigned char)*p;
            }
        }
        if (n + 5 > room) return false;
        if (raw || code < 0x80) out[n++] = (char)code;
        else if (code < 0x800) { out[n++] = (char)(0xC0 | code >> 6); out[n++] = (char)(0x80 | (code & 63)); }
        else if (code < 0x10000) {
            out[n++] = (char)(0xE0 | code >> 12); out[n++] = (char)(0x80 | (code >> 6 & 63)); out[n++] = (char)(0x80 | (code & 63));
        } else {
            out[n++] = (char)(0xF0 | code >> 18); out[n++] = (char)(0x80 | (code >> 12 & 63));
            out[n++] = (char)(0x80 | (code >> 6 & 63)); out[n++] = (char)(0x80 | (code & 63));
        }
    }
    out[n] = 0;
    return true;
}

__attribute__((unused)) static bool json_integer(struct slice value, long long *out) {
    char text[24], *rest;
    size_t n = (size_t)(value.end - value.start);
    if (n == 0 || n >= sizeof text) return false;
    memcpy(text, value.start, n);
    text[n] = 0;
    *out = strtoll(text, &rest, 10);
    return *rest == 0;
}
#endif
