#ifndef ENGINE_TOKENIZER_H
#define ENGINE_TOKENIZER_H
/* Text <-> token ids, from the tokenizer.ggml.* keys of a GGUF (tokenizer-only files too).
 * Models: "llama" (SentencePiece BPE with byte fallback), "gpt2" (byte-level BPE; pre-tokenizers by name in
 * engine/pretoken.c), "bert" (WordPiece, for embedders). Immutable after open, and the GGUF may be closed: any thread.
 * Input is bytes; invalid UTF-8 is tokenized, never refused: words are cut as if U+FFFD stood there, and the bytes stay, as
 * tiktoken keeps them, so that they come back (SentencePiece and llama.cpp put U+FFFD itself in their place, and llama.cpp
 * takes overlong forms and surrogates for characters); a byte that no token stands for becomes the unknown token, or nothing
 * where there is none. WordPiece drops them, as it drops control characters.
 * Where huggingface/tokenizers, with a model's own tokenizer.json, and llama.cpp differ, "gpt2" and "bert" follow the former,
 * for so the models were trained, with two exceptions: normalizers are not applied, for GGUF does not hold them (mpt and qwen2
 * have NFC), and a byte that no token stands for (in falcon some controls) parts what is beside it; there it goes before merges. */
#include "core/buf.h"
#include "engine/gguf.h"

typedef struct tokenizer tokenizer;
typedef struct { uint32_t *id; size_t n, cap; } token_list;   /* {0} to start, token_list_free to end */
bool token_list_add(token_list *l, uint32_t id);
void token_list_free(token_list *l);

/* ERR_MODEL names the missing or wrong key, or the unknown model / pre-tokenizer. */
err_code tokenizer_open(tokenizer **out, const gguf *g, err *e);
void tokenizer_close(tokenizer **t);

uint32_t tokenizer_vocab(const tokenizer *t);
#define TOKEN_NONE UINT32_MAX
uint32_t tokenizer_bos(const tokenizer *t);                    /* TOKEN_NONE when the file has none */
uint32_t tokenizer_eos(const tokenizer *t);                    /* "bert": [CLS] and [SEP] are BOS and EOS */
bool tokenizer_adds_bos(const tokenizer *t);
bool tokenizer_adds_eos(const tokenizer *t);
/* End of generation: eos, eot and the well-known end-of-turn tokens (<|eot_id|>, <|im_end|>, <|endoftext|>, <end_of_turn>). */
bool tokenizer_is_eog(const tokenizer *t, uint32_t id);
bool tokenizer_is_control(const tokenizer *t, uint32_t id);

/* Append the ids of text to *out. add_ends puts BOS in front and EOS behind where the model has them and asks for them.
 * parse_special: text such as "<s>" or "<|im_start|>" becomes its control token; otherwise it is plain text. User-defined
 * tokens are always found. The white space beside a special token goes with it where the model says so (phi-3). */
err_code tokenizer_encode(const tokenizer *t, view text, bool add_ends, bool parse_special, token_list *out, err *e);

/* The token's bytes as text (not always whole characters; empty for control tokens unless `special`), appended. */
err_code tokenizer_piece(const tokenizer *t, uint32_t id, bool special, text *out, err *e);

/* Streaming: never gives out half a UTF-8 character; a token list's leading space of SPM is dropped once at the start
 * when `first` text begins the sequence. */
typedef struct { text pending; bool started; } detok;
/* Bytes that are now whole are appended to *out; impossible sequences become U+FFFD. */
err_code detok_push(detok *d, const tokenizer *t, uint32_t id, text *out, err *e);
/* End: what is left pending is appended as U+FFFD; state becomes {0}. */
err_code detok_end(detok *d, text *out, err *e);
#endif
