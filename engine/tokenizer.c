/* Opens a vocabulary and hands text to the right encoder. It refuses vocabularies it does not know instead of guessing:
 * wrong ids are worse than none. */
#include "engine/byte_alphabet.h"
#include "engine/tokenizer_priv.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MAX ((size_t)1 << 29)    /* 512 MiB: offsets stay 32 bits wide, blanks become three bytes in SPM */

bool token_list_add(token_list *l, uint32_t id)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? l->cap * 2 : 64;
        uint32_t *p = cap > SIZE_MAX / sizeof *p ? NULL : realloc(l->id, cap * sizeof *p);
        if (!p) return false;
        l->id = p;
        l->cap = cap;
    }
    l->id[l->n++] = id;
    return true;
}

void token_list_free(token_list *l)
{
    free(l->id);
    *l = (token_list){ 0 };
}

/* ---- pieces ---- */

static err_code count_tokens(tokenizer *t, const gguf *g, err *e)
{
    gguf_kind kind;
    uint64_t n, m;
    if (!gguf_get_arr(g, "tokenizer.ggml.tokens", &kind, &n) || kind != GGUF_STR)
        return err_set(e, ERR_MODEL, "tokenizer.ggml.tokens is missing or not an array of strings");
    if (n == 0 || n >= 1u << 28) return err_set(e, ERR_MODEL, "tokenizer.ggml.tokens has %" PRIu64 " entries", n);
    static const char *const parallel[] = { "tokenizer.ggml.token_type", "tokenizer.ggml.scores" };
    for (int i = 0; i < 2; i++)
        if (gguf_get_arr(g, parallel[i], &kind, &m) && m != n)
            return err_set(e, ERR_MODEL, "%s has %" PRIu64 " entries for %" PRIu64 " tokens", parallel[i], m, n);
    t->n = (uint32_t)n;
    t->at = calloc(n + 1, sizeof *t->at);
    t->type = calloc(n, 1);
    t->eog = calloc(n, 1);
    t->strip = calloc(n, 1);
    t->score = calloc(n, sizeof *t->score);
    bool ok = t->at && t->type && t->eog && t->strip && t->score;
    return ok ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for %" PRIu64 " tokens", n);
}

/* Tokens that end a turn, and those that mark places in code: many files give them a wrong type, so their text decides
 * (llama.cpp's list; U+FF5C and U+2581 in DeepSeek's). */
static const struct { const char *text; bool eog; } known[] = {
    { "<|eot_id|>", true }, { "<|im_end|>", true }, { "<|end|>", true }, { "<end_of_turn>", true }, { "<|endoftext|>", true },
    { "<|eom_id|>", true }, { "<|end_of_text|>", true }, { "<end_of_utterance>", true }, { "<EOT>", true }, { "_<EOT>", true },
    { "[EOT]", true }, { "<\xEF\xBD\x9C" "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>", true }, { "<|fim_pad|>", true },
    { "<|repo_name|>", true }, { "<|file_sep|>", true }, { "<|fim_prefix|>", false }, { "<|fim_suffix|>", false },
    { "<|fim_middle|>", false },
};

static void apply_known(tokenizer *t, uint32_t id, view v)
{
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (v.len == strlen(known[i].text) && !memcmp(v.ptr, known[i].text, v.len)) {
            t->type[id] = TOKEN_CONTROL;
            t->eog[id] = known[i].eog;
        }
}

static err_code read_type(tokenizer *t, const gguf *g, uint32_t id, err *e)
{
    int64_t type = TOKEN_NORMAL;
    if (gguf_get_arr(g, "tokenizer.ggml.token_type", NULL, NULL) && !gguf_arr_i64(g, "tokenizer.ggml.token_type", id, &type))
        return err_set(e, ERR_MODEL, "tokenizer.ggml.token_type is not an array of integers");
    if (type < 0 || type > TOKEN_BYTE)
        return err_set(e, ERR_MODEL, "tokenizer.ggml.token_type: token %u has the unknown type %" PRId64, id, type);
    t->type[id] = type ? (uint8_t)type : TOKEN_NORMAL;
    return ERR_OK;
}

static bool hex_byte(view v, char *out)
{
    const char *p = v.ptr;
    if (v.len != 6 || memcmp(p, "<0x", 3) || p[5] != '>') return false;
    unsigned value = 0;
    for (int i = 3; i < 5; i++) {
        const char *digits = "0123456789ABCDEF0123456789abcdef", *at = p[i] ? strchr(digits, p[i]) : NULL;
        if (!at) return false;
        value = value * 16 + (unsigned)((at - digits) & 15);
    }
    *out = (char)value;
    return true;
}

/* Append the piece as the encoder and the decoder want it. */
static err_code add_piece(tokenizer *t, text *all, uint32_t id, view v, err *e)
{
    char byte;
    if (t->kind == TOKENIZER_SPM && t->type[id] == TOKEN_BYTE) {
        if (!hex_byte(v, &byte)) return err_set(e, ERR_MODEL, "tokenizer.ggml.tokens: token %u is a byte but not spelt <0xXX>", id);
        v = (view){ &byte, 1 };
    } else if (t->kind == TOKENIZER_BPE && (t->type[id] == TOKEN_NORMAL || t->type[id] == TOKEN_UNUSED)) {
        if (byte_alphabet_decode(v, all)) return ERR_OK;
        t->type[id] = TOKEN_LITERAL;                     /* not of the alphabet: no text becomes it, it stands for itself */
    }
    return text_add(all, v.ptr, v.len) ? ERR_OK : err_set(e, ERR_NOMEM, "out of memory for the vocabulary");
}

static err_code read_pieces(tokenizer *t, const gguf *g, err *e)
{
    err_code rc = count_tokens(t, g, e);
    text all = { 0 };
    if (!rc && !text_reserve(&all, 1)) rc = err_set(e, ERR_NOMEM, "out of memory for the vocabulary");
    for (uint32_t i = 0; !rc && i < t->n; i++) {
        view v = { "", 0 };
        (void)gguf_arr_str(g, "tokenizer.ggml.tokens", i, &v);
        if (!(rc = read_type(t, g, i, e))) {
            apply_known(t, i, v);
            rc = add_piece(t, &all, i, v, e);
        }
        t->at[i + 1] = (uint32_t)all.len;                /* fits: pieces are shorter than the header, that is below 2^30 */
    }
    t->bytes = all.ptr;
    return rc;
}

/* ---- options ---- */

static err_code read_id(const tokenizer *t, const gguf *g, const char *key, uint32_t *id, err *e)
{
    uint64_t v;
    if (!gguf_get_u64(g, key, &v)) {
        if (*id != TOKEN_NONE && *id >= t->n) *id = TOKEN_NONE;
        return ERR_OK;
    }
    if (v >= t->n) return err_set(e, ERR_MODEL, "%s is %" PRIu64 ", the vocabulary has %u tokens", key, v, t->n);
    *id = (uint32_t)v;
    return ERR_OK;
}

static err_code read_ids(tokenizer *t, const gguf *g, err *e)
{
    /* What SentencePiece and BERT's own vocabularies number so, when the file says nothing. */
    static const struct { uint32_t unk, bos, eos; } usual[] = {
        [TOKENIZER_SPM] = { 0, 1, 2 },
        [TOKENIZER_BPE] = { TOKEN_NONE, TOKEN_NONE, TOKEN_NONE },
        [TOKENIZER_WPM] = { 100, 101, 102 },
    };
    uint32_t eot = TOKEN_NONE, eom = TOKEN_NONE, no_cls = TOKEN_NONE, no_sep = TOKEN_NONE;
    bool bert = t->kind == TOKENIZER_WPM;
    t->unk = usual[t->kind].unk;
    t->bos = usual[t->kind].bos;
    t->eos = usual[t->kind].eos;
    struct { const char *key; uint32_t *id;
    } ids[] = {
        { "tokenizer.ggml.cls_token_id", bert ? &t->bos : &no_cls },
        { "tokenizer.ggml.bos_token_id", &t->bos },     { "tokenizer.ggml.eos_token_id", &t->eos },
        { "tokenizer.ggml.unknown_token_id", &t->unk }, { "tokenizer.ggml.eot_token_id", &eot },
        { "tokenizer.ggml.eom_token_id", &eom },
        { "tokenizer.ggml.seperator_token_id", bert ? &t->eos : &no_sep },      /* the format's spelling */
    };
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        err_code rc = read_id(t, g, ids[i].key, ids[i].id, e);
        if (rc) return rc;
    }
    if (t->eos != TOKEN_NONE) t->eog[t->eos] = 1;
    if (eot != TOKEN_NONE) t->eog[eot] = 1;
    if (eom != TOKEN_NONE) t->eog[eom] = 1;
    return ERR_OK;
}

static err_code open_spm(tokenizer *t, const gguf *g, err *e)
{
    t->has_bos = t->space_prefix = true;
    (void)gguf_get_bool(g, "tokenizer.ggml.add_space_prefix", &t->space_prefix);
    (void)gguf_get_bool(g, "tokenizer.ggml.remove_extra_whitespaces", &t->squeeze);
    return spm_open(t, g, e);
}

static err_code open_bpe(tokenizer *t, const gguf *g, err *e)
{
    view name = { "default", 7 };
    (void)gguf_get_str(g, "tokenizer.ggml.pre", &name);
    const pretoken_row *row = pretoken_find(name);
    if (!row) {
        text names = { 0 };
        char buf[96];
        pretoken_names(&names);
        err_set(e, ERR_MODEL, "tokenizer.ggml.pre '%s' is not supported (%s)", gguf_printable(buf, name),
                names.ptr ? names.ptr : "");
        text_free(&names);
        return ERR_MODEL;
    }
    t->has_bos = row->add_bos;
    return bpe_open(t, g, row, e);
}

static const struct { const char *name; tokenizer_kind kind; err_code (*open)(tokenizer *, const gguf *, err *); } models[] = {
    { "llama", TOKENIZER_SPM, open_spm },
    { "gpt2", TOKENIZER_BPE, open_bpe },
    { "bert", TOKENIZER_WPM, wpm_open },
};
#define N_MODELS (sizeof models / sizeof *models)

static err_code find_model(const gguf *g, size_t *i, err *e)
{
    view v;
    char buf[96];
    if (!gguf_get_str(g, "tokenizer.ggml.model", &v))
        return err_set(e, ERR_MODEL, "tokenizer.ggml.model is missing or not a string");
    for (*i = 0; *i < N_MODELS; ++*i)
        if (v.len == strlen(models[*i].name) && !memcmp(v.ptr, models[*i].name, v.len)) return ERR_OK;
    return err_set(e, ERR_MODEL, "tokenizer.ggml.model '%s' is not supported (llama, gpt2, bert)", gguf_printable(buf, v));
}

static err_code open_parts(tokenizer *t, const gguf *g, err *e)
{
    size_t i;
    err_code rc = find_model(g, &i, e);
    if (rc) return rc;
    t->kind = models[i].kind;
    rc = read_pieces(t, g, e);
    if (!rc) rc = read_ids(t, g, e);
    if (!rc) rc = models[i].open(t, g, e);
    if (!rc) rc = special_open(t, e);
    if (rc) return rc;
    strip_open(t, g);
    (void)gguf_get_bool(g, "tokenizer.ggml.add_bos_token", &t->has_bos);
    (void)gguf_get_bool(g, "tokenizer.ggml.add_eos_token", &t->has_eos);
    return ERR_OK;
}

err_code tokenizer_open(tokenizer **out, const gguf *g, err *e)
{
    *out = NULL;
    tokenizer *t = calloc(1, sizeof *t);
    if (!t) return err_set(e, ERR_NOMEM, "%s: out of memory", gguf_path(g));
    err_code rc = open_parts(t, g, e);
    if (rc) {
        err_wrap(e, "%s", gguf_path(g));
        tokenizer_close(&t);
        return rc;
    }
    *out = t;
    return ERR_OK;
}

void tokenizer_close(tokenizer **tp)
{
    tokenizer *t = *tp;
    if (!t) return;
    free(t->bytes);
    free(t->at);
    free(t->type);
    free(t->eog);
    free(t->strip);
    free(t->score);
    free(t->special_len);
    piece_table_close(&t->words);
    piece_table_close(&t->special);
    merge_table_close(&t->merges);
    pretoken_close(&t->pre);
    free(t);
    *tp = NULL;
}

uint32_t tokenizer_vocab(const tokenizer *t) { return t->n; }
uint32_t tokenizer_bos(const tokenizer *t) { return t->bos; }
uint32_t tokenizer_eos(const tokenizer *t) { return t->eos; }
bool tokenizer_adds_bos(const tokenizer *t) { return t->has_bos && t->bos != TOKEN_NONE; }
bool tokenizer_adds_eos(const tokenizer *t) { return t->has_eos && t->eos != TOKEN_NONE; }
bool tokenizer_is_eog(const tokenizer *t, uint32_t id) { return id < t->n && t->eog[id]; }
bool tokenizer_is_control(const tokenizer *t, uint32_t id) { return id < t->n && t->type[id] == TOKEN_CONTROL; }

/* ---- encode ---- */

/* Text between special tokens. SPM puts its blank in front at the beginning and after each special token. */
static err_code encode_plain(const tokenizer *t, view v, token_list *out, err *e)
{
    if (!v.len) return ERR_OK;
    switch (t->kind) {
    case TOKENIZER_SPM: return spm_encode(t, v, out, e);
    case TOKENIZER_BPE: return bpe_encode(t, v, out, e);
    case TOKENIZER_WPM: return wpm_encode(t, v, out, e);
    }
    return ERR_OK;
}

static err_code encode_parts(const tokenizer *t, view v, const special_list *special, token_list *out, err *e)
{
    const char *p = v.ptr;
    size_t at = 0;
    err_code rc = ERR_OK;
    for (size_t i = 0; !rc && i < special->n; i++) {
        const special_hit *h = &special->hit[i];
        rc = encode_plain(t, (view){ p + at, h->at - at }, out, e);
        if (!rc && !token_list_add(out, h->id)) rc = err_set(e, ERR_NOMEM, "out of memory for tokens");
        at = (size_t)h->at + h->len;
    }
    return rc || at == v.len ? rc : encode_plain(t, (view){ p + at, v.len - at }, out, e);
}

err_code tokenizer_encode(const tokenizer *t, view v, bool add_ends, bool parse_special, token_list *out, err *e)
{
    if (v.len > TEXT_MAX) return err_set(e, ERR_INPUT, "text of %zu bytes is longer than %zu", v.len, TEXT_MAX);
    size_t before = out->n;
    special_list special;
    err_code rc = special_find(t, v, parse_special, &special, e);
    if (!rc && add_ends && tokenizer_adds_bos(t) && !token_list_add(out, t->bos))
        rc = err_set(e, ERR_NOMEM, "out of memory for tokens");
    if (!rc) rc = encode_parts(t, v, &special, out, e);
    if (!rc && add_ends && tokenizer_adds_eos(t) && !token_list_add(out, t->eos))
        rc = err_set(e, ERR_NOMEM, "out of memory for tokens");
    free(special.hit);
    if (rc) out->n = before;
    return rc;
}
