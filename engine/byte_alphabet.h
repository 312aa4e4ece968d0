#ifndef ENGINE_BYTE_ALPHABET_H
#define ENGINE_BYTE_ALPHABET_H
/* GPT-2's byte alphabet: every byte is one printable character. Printable Latin-1 bytes stand for themselves, the others
 * for U+0100 onwards in ascending order, up to U+0143. Pure. */
#include "core/buf.h"

/* The byte that a character stands for, or -1. */
int byte_alphabet_byte(uint32_t cp);
/* UTF-8 text in the alphabet -> bytes, appended. False when a character is not of it (or memory is out): *out is then as
 * it was, and so are the pieces of a vocabulary that stand for themselves. */
bool byte_alphabet_decode(view piece, text *out);
/* Bytes -> UTF-8 text in the alphabet, appended; false when memory is out. */
bool byte_alphabet_encode(view bytes, text *out);
#endif
