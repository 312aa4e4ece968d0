#include "ops/cli/pieces.h"
#include "core/log.h"
#include "core/utf8.h"
#include "ops/cli/answer.h"

/* Owns how one token is written down. What it means is the tokenizer's. */

tokenizer *pieces_open(const char *model_file)
{
    err e;
    gguf *g = NULL;
    tokenizer *t = NULL;
    err_code rc = gguf_open(&g, model_file, &e);
    if (rc == ERR_OK) rc = tokenizer_open(&t, g, &e);
    if (rc != ERR_OK) LOG(LOG_WARN, "NO-TOKEN-TEXT", "text=\"%s\"", e.text);
    gguf_close(&g);
    return rc == ERR_OK ? t : NULL;
}

void pieces_put(json_t *o, const char *key, const tokenizer *t, uint32_t id)
{
    text piece = { 0 };
    err quiet;
    if (t && id < tokenizer_vocab(t) && tokenizer_piece(t, id, true, &piece, &quiet) == ERR_OK) {
        json_t *whole = json_stringn(piece.len ? piece.ptr : "", piece.len);
        json_object_set_new(o, key, whole ? whole : json_bytes(piece.ptr, piece.len));
        json_t *bytes = whole ? NULL : json_array();
        for (size_t i = 0; bytes && i < piece.len; i++) json_array_append_new(bytes, json_integer((uint8_t)piece.ptr[i]));
        if (bytes) json_object_set_new(o, "bytes", bytes);
    }
    text_free(&piece);
}
