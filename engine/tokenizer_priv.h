#ifndef ENGINE_TOKENIZER_PRIV_H
#define ENGINE_TOKENIZER_PRIV_H
/* What the tokenizer's files share; nobody else includes this. tokenizer.c opens and dispatches, tokenizer_special.c cuts
 * special tokens out (tokenizer_strip.c: which of them swallow blanks), tokenizer_spm.c, tokenizer_bpe.c and tokenizer_wpm.c
 * encode plain text, detok.c turns ids into text. */
#include "engine/piece_table.h"
#include "engine/pretoken.h"
#include "engine/tokenizer.h"

#define SPM_SPACE "\xE2\x96\x81"          /* U+2581 stands for a blank inside SentencePiece */

typedef enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN, TOKEN_CONTROL, TOKEN_USER, TOKEN_UNUSED, TOKEN_BYTE,
               TOKEN_LITERAL } token_type;   /* the last is ours: BPE, normal, but not of the byte alphabet */

typedef enum { TOKENIZER_SPM, TOKENIZER_BPE, TOKENIZER_WPM } tokenizer_kind;
enum { STRIP_LEFT = 1, STRIP_RIGHT = 2 };     /* the white space on that side of a special token belongs to it */

struct tokenizer {
    tokenizer_kind kind;
    bool has_bos, has_eos;                /* put in front, put behind */
    bool space_prefix, squeeze;           /* SPM: a blank in front; blanks at the ends and double ones dropped */
    bool lowercase, strip_accents;        /* WPM */
    bool split_words;                     /* SPM: no piece has a blank after another character, so words never merge */
    uint32_t n, bos, eos, unk;
    char *bytes;                          /* pieces: SPM as in the file, byte tokens and byte-level BPE decoded to bytes */
    uint32_t *at;                         /* [n + 1] */
    uint8_t *type;                        /* [n] token_type */
    uint8_t *eog;                         /* [n] 0 or 1 */
    uint8_t *strip;                       /* [n] STRIP_* */
    float *score;                         /* [n], SPM */
    piece_table words;                    /* what plain text can become */
    piece_table special;                  /* what is cut out before */
    uint32_t *special_len;                /* their distinct lengths, longest first */
    size_t n_special_len;
    uint8_t special_first[256];           /* 1: some special token begins with this byte */
    uint32_t byte_id[256];                /* token of a single byte or TOKEN_ABSENT */
    merge_table merges;                   /* BPE */
    bool ignore_merges;
    pretoken *pre;
};

static inline view token_bytes(const tokenizer *t, uint32_t id)
{
    return (view){ t->bytes + t->at[id], t->at[id + 1] - t->at[id] };
}

/* Does the model spell a blank as U+2581? */
static inline bool token_blanks(const tokenizer *t) { return t->kind != TOKENIZER_BPE; }

typedef struct { uint32_t at, len, id; } special_hit;     /* with the blanks that it swallowed */
typedef struct { special_hit *hit; size_t n, cap; } special_list;
/* Fills t->special from the types. */
err_code special_open(tokenizer *t, err *e);
/* Fills t->strip: GGUF has no key for it, so names in the file decide. */
void strip_open(tokenizer *t, const gguf *g);
/* The special tokens in it, by position, not overlapping: longer ones have been looked for first (llama.cpp's order).
 * Control and unknown tokens only with `parse`. The caller frees list->hit. */
err_code special_find(const tokenizer *t, view in, bool parse, special_list *list, err *e);

err_code bpe_open(tokenizer *t, const gguf *g, const pretoken_row *row, err *e);
err_code bpe_encode(const tokenizer *t, view in, token_list *out, err *e);
err_code spm_open(tokenizer *t, const gguf *g, err *e);
err_code spm_encode(const tokenizer *t, view in, token_list *out, err *e);
err_code wpm_open(tokenizer *t, const gguf *g, err *e);
err_code wpm_encode(const tokenizer *t, view in, token_list *out, err *e);
#endif
