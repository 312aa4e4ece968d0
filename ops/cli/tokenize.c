#include "ops/cli/command.h"
#include "ops/cli/chat_model.h"
#include "ops/cli/ids.h"
#include "ops/cli/paths.h"
#include "ops/cli/request.h"
#include "ops/cli/show.h"
#include <string.h>
#include <unistd.h>

/* sluice tokenize and detokenize: the tokenizer alone, no cluster. Works on files without weights. */

enum { TEXT_BYTES_MAX = 1 << 30 };

static err_code open_tokenizer(tokenizer **t, settings *s, err *e)
{
    gguf *g = NULL;
    err_code rc = path_default_model(s, e);
    if (rc == ERR_OK) rc = gguf_open(&g, s->model, e);
    if (rc == ERR_OK) rc = tokenizer_open(t, g, e);
    gguf_close(&g);
    return rc;
}

static err_code piece_json(const tokenizer *t, uint32_t id, json_t **out, err *e)
{
    text piece = { 0 };
    err_code rc = tokenizer_piece(t, id, true, &piece, e);
    if (rc == ERR_OK) *out = json_bytes(piece.ptr, piece.len);
    text_free(&piece);
    return rc;
}

static err_code print_json(const tokenizer *t, const token_list *ids, bool pieces, err *e)
{
    json_t *o = json_object(), *tokens = json_array(), *list = pieces ? json_array() : NULL, *p;
    err_code rc = ERR_OK;
    for (size_t i = 0; i < ids->n && rc == ERR_OK; i++) {
        json_array_append_new(tokens, json_integer(ids->id[i]));
        if (pieces && (rc = piece_json(t, ids->id[i], &p, e)) == ERR_OK) json_array_append_new(list, p);
    }
    json_object_set_new(o, "schema", json_string("sluice.tokens/1"));
    json_object_set_new(o, "tokens", tokens);
    if (list) json_object_set_new(o, "pieces", list);
    if (rc == ERR_OK) return show_json(o, e);
    json_decref(o);
    return rc;
}

/* One token a line: id, a tab, the piece with C escapes, so that white space and broken characters can be seen. */
static err_code print_piece(const tokenizer *t, uint32_t id, err *e)
{
    text piece = { 0 };
    err_code rc = tokenizer_piece(t, id, true, &piece, e);
    if (rc == ERR_OK) printf("%u\t\"", id);
    for (size_t i = 0; i < piece.len && rc == ERR_OK; i++) {
        unsigned char c = (unsigned char)piece.ptr[i];
        if (c == '\n') fputs("\\n", stdout);
        else if (c == '"' || c == '\\') printf("\\%c", c);
        else if (c < 32 || c == 127 || (c >= 128 && piece.len == 1)) printf("\\x%02x", c);
        else putchar(c);
    }
    if (rc == ERR_OK) puts("\"");
    text_free(&piece);
    return rc;
}

static err_code print_ids(const tokenizer *t, const token_list *ids, const settings *s, err *e)
{
    err_code rc = ERR_OK;
    if (s->json) return print_json(t, ids, s->pieces, e);
    for (size_t i = 0; i < ids->n && rc == ERR_OK; i++) {
        if (s->pieces) rc = print_piece(t, ids->id[i], e);
        else printf("%s%u", i ? " " : "", ids->id[i]);
    }
    if (!s->pieces) putchar('\n');
    return rc == ERR_OK ? show_write("", 0, e) : rc;
}

/* A conversation: from a file of messages, or one turn of the user's. */
static err_code read_conversation(conversation *c, const settings *s, err *e)
{
    request r = { 0 };
    bool dash = s->args.n == 1 && !strcmp(s->args.at[0], "-");
    err_code rc = ERR_OK;
    if (!s->prompt && (s->file || dash)) rc = chat_load(c, s->file ? s->file : "-", false, e);
    else if ((rc = request_prompt(&r, s, e)) == ERR_OK) rc = conversation_add(c, CHAT_USER, r.prompt.ptr, r.prompt.len, e);
    if (rc == ERR_OK && s->system) rc = conversation_set_system(c, s->system, strlen(s->system), e);
    request_free(&r);
    return rc;
}

static err_code tokenize_chat(settings *s, err *e)
{
    chat_model m = { 0 };
    conversation c = { 0 };
    token_list ids = { 0 };
    size_t broken = 0;
    err_code rc = s->bos || s->special
                      ? err_set(e, ERR_USAGE, "--chat puts control tokens where they belong: no --bos, no --special")
                      : ERR_OK;
    if (rc == ERR_OK) rc = read_conversation(&c, s, e);
    if (rc == ERR_OK) rc = path_default_model(s, e);
    if (rc == ERR_OK) rc = chat_model_open(&m, s->model, s->chat_template, e);
    if (rc == ERR_OK) rc = chat_render(&m.style, m.tok, c.turn, c.n, &ids, &broken, e);
    if (rc == ERR_OK && broken) fprintf(stderr, "sluice tokenize: %zu role markers in the messages' text got a blank\n", broken);
    if (rc == ERR_OK) rc = print_ids(m.tok, &ids, s, e);
    token_list_free(&ids);
    conversation_free(&c);
    chat_model_close(&m);
    return rc;
}

err_code cmd_tokenize(settings *s, err *e)
{
    if (s->chat) return tokenize_chat(s, e);
    if (s->system || s->chat_template) return err_set(e, ERR_USAGE, "--system and --chat-template go with --chat");
    tokenizer *t = NULL;
    request r = { 0 };
    token_list ids = { 0 };
    err_code rc = request_prompt(&r, s, e);
    if (rc == ERR_OK) rc = open_tokenizer(&t, s, e);
    if (rc == ERR_OK && s->bos && tokenizer_bos(t) == TOKEN_NONE)
        rc = err_set(e, ERR_MODEL, "%s: the model has no beginning token", s->model);
    if (rc == ERR_OK && s->bos && !token_list_add(&ids, tokenizer_bos(t))) rc = err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK) rc = tokenizer_encode(t, (view){ r.prompt.ptr, r.prompt.len }, false, s->special, &ids, e);
    if (rc == ERR_OK && s->bos && tokenizer_adds_eos(t) && !token_list_add(&ids, tokenizer_eos(t)))
        rc = err_set(e, ERR_NOMEM, "out of memory");
    if (rc == ERR_OK) rc = print_ids(t, &ids, s, e);
    token_list_free(&ids);
    request_free(&r);
    tokenizer_close(&t);
    return rc;
}

/* ---- and back ---- */

static err_code read_ids(const settings *s, token_list *ids, err *e)
{
    text in = { 0 };
    bool dash = s->args.n == 1 && !strcmp(s->args.at[0], "-");
    const char *path = s->file ? s->file : dash ? "-" : NULL;
    if ((path != NULL) + (s->tokens != NULL) + (s->args.n && !dash) != 1)
        return err_set(e, ERR_USAGE, "token ids come from -t ID,ID,..., from the words, from -f FILE, or from - (standard input)");
    err_code rc = path ? text_read_file(&in, path, TEXT_BYTES_MAX, e) : ERR_OK;
    if (rc == ERR_OK && path) rc = ids_parse(in.ptr ? in.ptr : "", ids, e);
    if (rc == ERR_OK && s->tokens) rc = ids_parse(s->tokens, ids, e);
    for (size_t i = 0; rc == ERR_OK && !dash && i < s->args.n; i++) rc = ids_parse(s->args.at[i], ids, e);
    text_free(&in);
    return rc;
}

static err_code join_pieces(const tokenizer *t, const token_list *ids, bool special, text *out, err *e)
{
    detok d = { 0 };
    err_code rc = ERR_OK;
    for (size_t i = 0; i < ids->n && rc == ERR_OK; i++) {
        bool control = ids->id[i] < tokenizer_vocab(t) && tokenizer_is_control(t, ids->id[i]);
        if (control && special) rc = tokenizer_piece(t, ids->id[i], true, out, e);
        else rc = detok_push(&d, t, ids->id[i], out, e);
    }
    err quiet;
    err_code last = detok_end(&d, out, rc == ERR_OK ? e : &quiet);
    return rc == ERR_OK ? last : rc;
}

err_code cmd_detokenize(settings *s, err *e)
{
    tokenizer *t = NULL;
    token_list ids = { 0 };
    text out = { 0 };
    err_code rc = read_ids(s, &ids, e);
    if (rc == ERR_OK) rc = open_tokenizer(&t, s, e);
    if (rc == ERR_OK) rc = join_pieces(t, &ids, s->special, &out, e);
    if (rc == ERR_OK && s->json)
        rc = show_json(json_pack("{s:s, s:o}", "schema", "sluice.text/1", "text", json_bytes(out.ptr, out.len)), e);
    else if (rc == ERR_OK) rc = show_write(out.ptr, out.len, e);
    if (rc == ERR_OK && !s->json && isatty(STDOUT_FILENO)) rc = show_write("\n", 1, e);
    token_list_free(&ids);
    text_free(&out);
    tokenizer_close(&t);
    return rc;
}
