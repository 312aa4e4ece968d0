#include "workers/rag/query.h"
#include "core/utf8.h"
#include <stdlib.h>
#include <string.h>

/* English words that say nothing about what a passage is about; in byte order. BM25 gives words that are in more than half
 * of the chunks no weight by itself, but a small corpus is too small for that. */
static const char *const stop_words[] = {
    "a", "about", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "because", "been", "before", "being", "but",
    "by", "can", "could", "d", "did", "do", "does", "doing", "done", "for", "from", "had", "has", "have", "having", "he", "her",
    "him", "his", "how", "i", "if", "in", "into", "is", "it", "its", "just", "ll", "m", "many", "may", "me", "might", "much",
    "must", "my", "no", "nor", "not", "of", "on", "or", "our", "please", "re", "s", "shall", "she", "should", "so", "some",
    "such", "t", "tell", "than", "that", "the", "their", "them", "then", "there", "these", "they", "this", "those", "to", "us",
    "ve", "was", "we", "were", "what", "when", "where", "which", "who", "whom", "whose", "why", "will", "with", "would", "you",
    "your",
};

typedef struct { view word; bool stop; } term;

typedef struct {
    term at[QUERY_WORDS];       /* a ring, oldest overwritten */
    size_t taken;               /* distinct words ever taken */
} term_list;

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

static bool same(view a, view b)
{
    if (a.len != b.len) return false;
    for (size_t i = 0; i < a.len; i++) {
        if (lower(((const char *)a.ptr)[i]) != lower(((const char *)b.ptr)[i])) return false;
    }
    return true;
}

static int by_word(const void *key, const void *row) { return strcmp(key, *(const char *const *)row); }

static bool is_stop_word(view w)
{
    char word[16] = { 0 };
    if (w.len >= sizeof word) return false;
    for (size_t i = 0; i < w.len; i++) word[i] = lower(((const char *)w.ptr)[i]);
    return bsearch(word, stop_words, sizeof stop_words / sizeof *stop_words, sizeof *stop_words, by_word) != NULL;
}

static size_t kept(const term_list *l) { return l->taken < QUERY_WORDS ? l->taken : QUERY_WORDS; }

static void take(term_list *l, view word)
{
    if (!word.len || word.len > QUERY_WORD_BYTES) return;
    for (size_t i = 0; i < kept(l); i++) {
        if (same(l->at[i].word, word)) return;
    }
    l->at[l->taken++ % QUERY_WORDS] = (term){ word, is_stop_word(word) };
}

static void split(term_list *l, view query)
{
    size_t size, begin = 0;
    for (size_t at = 0; at < query.len; at += size) {
        if (utf8_is_word(utf8_at(query, at, &size))) continue;
        take(l, (view){ (const char *)query.ptr + begin, at - begin });
        begin = at + size;
    }
    take(l, (view){ (const char *)query.ptr + begin, query.len - begin });
}

bool query_terms(text *out, view query)
{
    term_list l = { .taken = 0 };
    if (query.len) split(&l, query);
    bool content = false;
    size_t first = l.taken - kept(&l), start = out->len;
    for (size_t i = first; i < l.taken; i++) content |= !l.at[i % QUERY_WORDS].stop;
    for (size_t i = first; i < l.taken; i++) {
        const term *t = &l.at[i % QUERY_WORDS];
        if (content && t->stop) continue;
        if (out->len > start && !text_adds(out, " OR ")) return false;
        if (!text_adds(out, "\"") || !text_add(out, t->word.ptr, t->word.len) || !text_adds(out, "\"")) return false;
    }
    return true;
}
